/**
 * The live events of one user, shared by all tabs of a browser.
 *
 * A browser opens few connections to one server, so the tabs elect one of them by a Web Lock: it holds the stream and
 * passes each event on by a BroadcastChannel. Where there are no locks (plain HTTP, blocked storage), a tab listens while it is
 * visible. After a gap that the server cannot fill, subscribers get a `reset`.
 */
import type { StaffClient } from "./client.ts"
import { StaffstreamError } from "./errors.ts"
import { onReturn, waitBeforeRetry } from "./reconnect.ts"
import type { LiveEvent } from "./types.ts"

type Listener = (event: LiveEvent) => void

const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 15_000
/** The server's pings come every 15 s. */
const SILENCE_MS = 40_000

export class LiveFeed {
  readonly #client: StaffClient
  readonly #listeners = new Set<Listener>()
  #lastEventId: string | null = null
  #stop: AbortController | null = null

  constructor(client: StaffClient) {
    this.#client = client
  }

  /** Calls back at each event; the first subscriber opens the stream, the last one to leave closes it. */
  subscribe(listener: Listener): () => void {
    this.#listeners.add(listener)
    this.#stop ??= this.#start()
    return () => {
      this.#listeners.delete(listener)
      // React's StrictMode subscribes again at once.
      setTimeout(() => {
        if (this.#listeners.size > 0) return
        this.#stop?.abort()
        this.#stop = null
      }, 0)
    }
  }

  #start(): AbortController {
    const stop = new AbortController()
    void this.#run(stop.signal).catch(thrown => {
      if (!stop.signal.aborted) reportError(thrown)
    })
    return stop
  }

  async #run(signal: AbortSignal): Promise<void> {
    if (typeof window === "undefined") return
    const name = `staffstream-live ${await this.#client.identify()}`
    if (signal.aborted) return
    if (!navigator.locks) return this.#listenWhileVisible(signal)
    try {
      await this.#shareByLock(name, signal)
    } catch (thrown) {
      // A page whose storage is blocked may have no locks either.
      if (!(thrown instanceof DOMException) || thrown.name !== "SecurityError") throw thrown
      await this.#listenWhileVisible(signal)
    }
  }

  async #shareByLock(name: string, signal: AbortSignal): Promise<void> {
    const channel = new BroadcastChannel(name)
    channel.onmessage = ({ data }) => this.#receive(data.event, data.id)
    // A page that was kept aside by the browser has missed what was passed on meanwhile.
    const unhook = onReturn(
      cause => cause === "restored" && this.#receive({ type: "reset" }, this.#lastEventId),
    )
    try {
      await navigator.locks.request(name, { signal }, () =>
        this.#listen(signal, (event, id) => channel.postMessage({ event, id })),
      )
    } finally {
      unhook()
      channel.close()
    }
  }

  async #listenWhileVisible(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const hidden = new AbortController()
      const hide = () => document.visibilityState === "hidden" && hidden.abort()
      document.addEventListener("visibilitychange", hide)
      if (document.visibilityState === "visible") {
        await this.#listen(AbortSignal.any([signal, hidden.signal]), () => undefined).catch(() => undefined)
      }
      document.removeEventListener("visibilitychange", hide)
      if (!signal.aborted) await waitBeforeRetry(24 * 3600_000, signal)
    }
  }

  /** Keeps a stream open until the signal aborts or the server refuses it for good. */
  async #listen(signal: AbortSignal, pass: (event: LiveEvent, id: string | null) => void): Promise<void> {
    for (let drops = 0; !signal.aborted; drops += 1) {
      const cut = new AbortController()
      let lastByteAt = Date.now()
      const ticker = setInterval(() => Date.now() - lastByteAt > SILENCE_MS && cut.abort(), 5_000)
      const unhook = onReturn(cause => cause === "online" && cut.abort())
      try {
        const onBytes = () => {
          lastByteAt = Date.now()
        }
        const both = AbortSignal.any([signal, cut.signal])
        for await (const { id, event } of await this.#client.listenLive(this.#lastEventId, both, onBytes)) {
          drops = 0
          this.#receive(event, id)
          pass(event, id)
        }
      } catch (thrown) {
        if (signal.aborted) return
        if (thrown instanceof StaffstreamError && isRefusal(thrown)) return
      } finally {
        clearInterval(ticker)
        unhook()
        cut.abort()
      }
      await waitBeforeRetry(Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** drops), signal).catch(
        () => undefined,
      )
    }
  }

  #receive(event: LiveEvent, id: string | null): void {
    this.#lastEventId = id ?? this.#lastEventId
    for (const listener of this.#listeners) listener(event)
  }
}

/** A server that has no live events, or not for this user: nothing will change that but another client. */
function isRefusal({ status }: StaffstreamError): boolean {
  return status >= 400 && status < 500 && status !== 408 && status !== 429
}

const feeds = new WeakMap<StaffClient, LiveFeed>()

/** The one feed of a client. */
export function getLiveFeed(client: StaffClient): LiveFeed {
  const known = feeds.get(client) ?? new LiveFeed(client)
  feeds.set(client, known)
  return known
}
