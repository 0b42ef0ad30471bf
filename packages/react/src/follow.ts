/**
 * One reply from its request to its terminal event, whatever the network does in between.
 *
 * A stream that ends without `done` or `error` has been cut, never finished. What follows is always safe to
 * repeat: before the run is known, the same POST under the same idempotency key; after that, a GET that joins the
 * run from the last cursor. Where a proxy holds the tokens back, the run is polled instead. The proof of holding
 * back is that the server's copy of the run is ahead of ours while we hear nothing.
 */
import { connectionLost, StaffstreamError } from "./errors.ts"
import type { EventStream } from "./http.ts"
import { onReturn, waitBeforeRetry } from "./reconnect.ts"
import type { Frame, Message, ReplyEvent, Run, RunHead } from "./types.ts"

export type Transport = "stream" | "poll" | "auto"

/** The calls that following needs; `StaffClient` makes them. */
export interface ReplySource {
  /** The first stream of a new reply: a POST that is safe to repeat. Null when the run is known already. */
  open: ((signal: AbortSignal, onBytes: () => void) => Promise<EventStream>) | null
  /** The same submission by the asynchronous call. Null where there is none. */
  start: ((signal: AbortSignal) => Promise<RunHead>) | null
  join(runId: string, after: number | null, signal: AbortSignal, onBytes: () => void): Promise<EventStream>
  getRun(runId: string, signal: AbortSignal): Promise<Run>
  getMessage(messageId: string, signal: AbortSignal): Promise<Message>
}

export interface FollowOptions {
  signal?: AbortSignal | undefined
  /** The run to join, for a source without `open`, and the cursor of what is already here. */
  runId?: string | null | undefined
  after?: number | null | undefined
  transport?: Transport | undefined
  /** Ask for `status` events: what the server is at while no text comes. */
  withStatus?: boolean | undefined
}

/** Waits and limits, in milliseconds and attempts; all have defaults that suit a browser. */
export interface FollowLimits {
  /** A stream that says nothing for this long is given up; the server pings every 15 s. */
  silenceMs: number
  /** With transport "auto": how long a stream may be silent before the run is asked whether it moved on. */
  probeMs: number
  /** The rhythm of polling. */
  pollMs: number
  /** The first wait after a drop; it doubles up to `maxBackoffMs`. */
  backoffMs: number
  maxBackoffMs: number
  /** How many drops in a row, with nothing onBytes between, end in an error. */
  maxDrops: number
}

export const DEFAULT_LIMITS: FollowLimits = {
  silenceMs: 40_000,
  probeMs: 3_000,
  pollMs: 1_000,
  backoffMs: 250,
  maxBackoffMs: 10_000,
  maxDrops: 12,
}

/** The server's pings come this often; one missed by a second means that the connection is dead. */
const PING_MS = 16_000

const HELD_BACK = new StaffstreamError("Something between holds the tokens back.", { code: "held_back" })

/** One silence while the server goes on may be a dead connection; a second one, or one from the start, is a proxy's. */
const MAX_STALLS = 1

export class ReplyFollower {
  readonly #source: ReplySource
  readonly #limits: FollowLimits
  readonly #signal: AbortSignal
  readonly #isAuto: boolean
  #runId: string | null
  #cursor: number | null
  #isAccepted = false
  #isPolling: boolean
  #mustReset = false
  /** Connections lost in a row, with no text between. */
  #drops = 0
  #isLost = false
  #stalls = 0

  constructor(source: ReplySource, limits: FollowLimits, options: FollowOptions = {}) {
    this.#source = source
    this.#limits = limits
    this.#signal = options.signal ?? new AbortController().signal
    this.#isAuto = (options.transport ?? "auto") === "auto"
    this.#isPolling = options.transport === "poll"
    this.#runId = options.runId ?? null
    this.#cursor = options.after ?? null
  }

  /** True once a proxy was found to hold tokens back, so that the next reply can poll from the start. */
  get isPolling(): boolean {
    return this.#isPolling
  }

  /**
   * The reply's events; the last one is `done` or `error`. Raises a `StaffstreamError` when the submission is
   * refused or the server stays unreachable, and the signal's reason once it aborts.
   */
  async *follow(): AsyncGenerator<ReplyEvent, void> {
    for (;;) {
      try {
        for await (const event of this.#isPolling ? this.#poll() : this.#stream()) {
          yield event
          if (event.type === "done" || event.type === "error") return
        }
        throw connectionLost("The stream broke off before the reply was complete.")
      } catch (thrown) {
        const error = this.#recover(thrown)
        if (error === null) continue
        if (++this.#drops > this.#limits.maxDrops) throw error
        this.#isLost = true
        yield { type: "connection", state: "lost", attempt: this.#drops }
        await waitBeforeRetry(this.#waitMs(this.#drops, error), this.#signal)
      }
    }
  }

  /** Null when the next attempt may follow at once, the error when it must wait; raises what no attempt will mend. */
  #recover(thrown: unknown): StaffstreamError | null {
    this.#signal.throwIfAborted()
    if (!(thrown instanceof StaffstreamError)) throw thrown
    const error = thrown
    if (error === HELD_BACK) {
      this.#isPolling = true
      return null
    }
    if (error.code === "bad_cursor" && this.#cursor !== null) {
      // A crashed server lost the last half second of its text: what it has now is the truth.
      this.#cursor = null
      this.#mustReset = true
      return null
    }
    const isServerTrouble = error.status >= 500 || error.status === 429 || error.status === 408
    if (error.isConnectionLoss || (this.#runId !== null && isServerTrouble)) return error
    throw error
  }

  #waitMs(drops: number, error: StaffstreamError): number {
    const { backoffMs, maxBackoffMs } = this.#limits
    const backoff = Math.min(maxBackoffMs, backoffMs * 2 ** (drops - 1)) * (0.5 + Math.random() / 2)
    return Math.max(backoff, Math.min(error.retryAfterMs ?? 0, 60_000))
  }

  async *#stream(): AsyncGenerator<ReplyEvent, void> {
    const connection = new StreamConnection(
      this.#signal,
      this.#limits,
      this.#isAuto ? () => this.#isBehind() : null,
    )
    try {
      const { head, frames } = await this.#open(connection)
      yield* this.#find()
      yield* this.#accept(head)
      if (this.#mustReset) yield { type: "reset", content: "", cursor: null }
      this.#mustReset = false
      for await (const frame of frames) {
        connection.hasFrame = true
        yield* this.#applyFrame(frame)
      }
    } catch (thrown) {
      throw connection.hasStalled ? this.#judgeStall(connection) : (connection.reason ?? thrown)
    } finally {
      connection.close()
    }
  }

  #judgeStall(connection: StreamConnection): StaffstreamError {
    this.#stalls += 1
    const isProxy = !connection.hasFrame || this.#stalls > MAX_STALLS
    return isProxy ? HELD_BACK : connectionLost("The stream fell silent while the reply went on.")
  }

  #open(connection: StreamConnection): Promise<EventStream> {
    if (this.#runId !== null)
      return this.#source.join(this.#runId, this.#cursor, connection.signal, connection.onBytes)
    if (this.#source.open !== null) return this.#source.open(connection.signal, connection.onBytes)
    throw new TypeError("a reply needs a run to join or a message to send")
  }

  *#find(): Generator<ReplyEvent, void> {
    if (this.#isLost) yield { type: "connection", state: "found", attempt: this.#drops }
    this.#isLost = false
  }

  *#accept(head: RunHead): Generator<ReplyEvent, void> {
    this.#runId ??= head.runId
    if (this.#isAccepted || this.#runId === null) return
    this.#isAccepted = true
    yield { type: "accepted", ...head, runId: this.#runId }
  }

  *#applyFrame({ event, runId, cursor }: Frame): Generator<ReplyEvent, void> {
    yield* this.#accept({ runId, userMessageId: null, conversationId: null })
    if (event.type === "thinking") return // sent only to those who ask for it
    if (event.type !== "token") {
      yield event
    } else if (cursor === null || this.#cursor === null || cursor > this.#cursor) {
      this.#cursor = cursor ?? this.#cursor
      this.#drops = 0
      yield { type: "token", content: event.content, cursor }
    }
  }

  /** Whether the server's copy of the run is ahead of ours. */
  async #isBehind(): Promise<boolean> {
    if (this.#runId === null && this.#source.start !== null) {
      this.#runId = (await this.#source.start(this.#signal)).runId
    }
    if (this.#runId === null) return false
    const run = await this.#source.getRun(this.#runId, this.#signal)
    return run.cursor > (this.#cursor ?? 0) || hasEnded(run)
  }

  async *#poll(): AsyncGenerator<ReplyEvent, void> {
    if (this.#runId === null) yield* this.#accept(await this.#start())
    const runId = this.#runId
    if (runId === null) throw connectionLost("The server did not name the run.")
    for (;;) {
      const run = await this.#source.getRun(runId, this.#signal)
      yield* this.#find()
      this.#drops = 0
      yield* this.#accept({
        runId,
        userMessageId: run.user_message_id ?? null,
        conversationId: run.conversation_id ?? null,
      })
      if (this.#mustReset || run.cursor !== (this.#cursor ?? 0)) {
        this.#mustReset = false
        this.#cursor = run.cursor
        yield { type: "reset", content: run.partial_text, cursor: run.cursor }
      }
      if (hasEnded(run)) return yield* this.#end(run)
      await waitBeforeRetry(this.#limits.pollMs, this.#signal)
    }
  }

  /** The asynchronous call; where there is none, the stream is opened just to learn its run. */
  async #start(): Promise<RunHead> {
    if (this.#source.start !== null) return this.#source.start(this.#signal)
    const connection = new StreamConnection(this.#signal, this.#limits, null)
    try {
      return (await this.#open(connection)).head
    } catch (thrown) {
      throw connection.reason ?? thrown
    } finally {
      connection.close()
    }
  }

  async *#end(run: Run): AsyncGenerator<ReplyEvent, void> {
    if (run.message_id) {
      const message = await this.#source.getMessage(run.message_id, this.#signal)
      if (message.content !== run.partial_text) {
        yield { type: "reset", content: message.content, cursor: run.cursor }
      }
    }
    yield toTerminal(run)
  }
}

function hasEnded(run: Run): boolean {
  return run.state === "done" || run.state === "failed" || run.state === "cancelled"
}

function toTerminal(run: Run): ReplyEvent {
  const messageId = run.message_id ?? null
  if (run.state === "failed") {
    const error = run.error ?? {
      code: "internal_error",
      detail: "The reply could not be made.",
      retryable: false,
    }
    return { type: "error", ...error, message_id: messageId }
  }
  const done = { stop_reason: run.stop_reason ?? null, usage: run.usage ?? null }
  return {
    type: "done",
    message_id: messageId,
    ...done,
    ...(run.state === "cancelled" && { cancelled: true }),
  }
}

/** One connection. It is cut when it stays silent, when the network changed, or when the run is ahead of it. */
class StreamConnection {
  /** Why it was cut; null while it holds. */
  reason: unknown = null
  /** The run went on while nothing was onBytes here. */
  hasStalled = false
  /** At least one frame has come. */
  hasFrame = false
  readonly #controller = new AbortController()
  readonly #outer: AbortSignal
  readonly #limits: FollowLimits
  readonly #isBehind: (() => Promise<boolean>) | null
  readonly #ticker: ReturnType<typeof setInterval>
  readonly #unhook: () => void
  #lastByteAt = Date.now()
  #probeAt: number

  constructor(outer: AbortSignal, limits: FollowLimits, isBehind: (() => Promise<boolean>) | null) {
    this.#outer = outer
    this.#limits = limits
    this.#isBehind = isBehind
    this.#probeAt = this.#lastByteAt + limits.probeMs
    this.#ticker = setInterval(() => void this.#check(), Math.min(1_000, limits.probeMs / 3))
    this.#unhook = onReturn(cause => {
      if (cause === "online" || this.#silentMs() > PING_MS) this.#cut(connectionLost("The network changed."))
    })
    outer.addEventListener("abort", this.#leave)
    if (outer.aborted) this.#leave()
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  readonly onBytes = (): void => {
    this.#lastByteAt = Date.now()
    this.#probeAt = this.#lastByteAt + this.#limits.probeMs
  }

  close(): void {
    clearInterval(this.#ticker)
    this.#unhook()
    this.#outer.removeEventListener("abort", this.#leave)
    this.#controller.abort()
  }

  readonly #leave = (): void => this.#cut(this.#outer.reason)

  #cut(reason: unknown): void {
    this.reason ??= reason
    this.#controller.abort(reason)
  }

  #silentMs(): number {
    return Date.now() - this.#lastByteAt
  }

  async #check(): Promise<void> {
    if (this.#silentMs() > this.#limits.silenceMs) this.#cut(connectionLost("The stream fell silent."))
    if (this.#isBehind === null || Date.now() < this.#probeAt) return
    this.#probeAt = Date.now() + 2 * this.#silentMs()
    const lastByteAt = this.#lastByteAt
    // A probe that fails proves nothing; the connection's own silence will end it.
    if (!(await this.#isBehind().catch(() => false))) return
    // What the run had just said may be on its way to us: give it the time that a slow network takes.
    await new Promise(resolve => setTimeout(resolve, this.#limits.probeMs / 3))
    if (this.#lastByteAt !== lastByteAt || this.signal.aborted) return
    this.hasStalled = true
    this.#cut(HELD_BACK)
  }
}
