/**
 * One HTTP call, or one event stream, and nothing about trying again: that is `follow.ts`.
 *
 * `fetch`, `baseUrl` and `headers` come through the constructor, so that a host can add its own authentication
 * and a test its own network. Every refusal leaves as a `StaffstreamError`.
 */
import { createParser, type EventSourceMessage } from "eventsource-parser"
import { connectionLost, readProblem, StaffstreamError } from "./errors.ts"
import type { Frame, LiveEvent, RunHead } from "./types.ts"

export interface HttpOptions {
  /** Where the server is mounted, e.g. `https://example.org/assistant`. Default: the page's own origin. */
  baseUrl?: string
  /** Default: the global `fetch`, looked up at each call. */
  fetch?: typeof globalThis.fetch
  /** Sent with every call; a function is asked each time, so a key can be renewed. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>)
  /** How long one ordinary call may take, in milliseconds. Default 30,000. */
  timeoutMs?: number
  /** Called when a call is refused with 401, whichever it is: the place to ask for another key. */
  onUnauthorized?: () => void
}

export interface CallOptions {
  body?: unknown
  query?: Record<string, string | number | boolean | null | undefined>
  headers?: Record<string, string>
  signal?: AbortSignal | undefined
}

export interface EventStream {
  head: RunHead
  frames: AsyncGenerator<Frame, void>
}

export type LiveStream = AsyncGenerator<{ id: string | null; event: LiveEvent }, void>

export class Http {
  readonly baseUrl: string
  readonly #options: HttpOptions

  constructor(options: HttpOptions = {}) {
    this.baseUrl = (options.baseUrl ?? "").replace(/\/+$/, "")
    this.#options = options
  }

  /** The answer to one call, whole, within the timeout. Raises `StaffstreamError` unless it is 2xx. */
  async call(method: string, path: string, options: CallOptions = {}): Promise<Response> {
    const timeout = AbortSignal.timeout(this.#options.timeoutMs ?? 30_000)
    const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout
    return this.#send(method, path, { ...options, signal })
  }

  /** The JSON of one call; null for an answer without a body. */
  async json<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
    return readBody<T>(await this.call(method, path, options))
  }

  /** An open event stream; whoever opens it ends it by `options.signal`. `onBytes` is called at every byte. */
  async stream(
    method: string,
    path: string,
    options: CallOptions,
    onBytes: () => void,
  ): Promise<EventStream> {
    const headers = { Accept: "text/event-stream", ...options.headers }
    const response = await this.#send(method, path, { ...options, headers })
    onBytes()
    return { head: readHead(response), frames: readMessages(response, onBytes, toFrame) }
  }

  /** The headers that the host adds to every call. */
  async ownHeaders(): Promise<HeadersInit | undefined> {
    const own = this.#options.headers
    return typeof own === "function" ? await own() : own
  }

  /** An open stream of live events, each with its id. */
  async events(method: string, path: string, options: CallOptions, onBytes: () => void): Promise<LiveStream> {
    const headers = { Accept: "text/event-stream", ...options.headers }
    const response = await this.#send(method, path, { ...options, headers })
    onBytes()
    return readMessages(response, onBytes, message => ({
      id: message.id ?? null,
      event: parseEvent(message.data),
    }))
  }

  async #send(method: string, path: string, options: CallOptions): Promise<Response> {
    const fetch = this.#options.fetch ?? globalThis.fetch
    const headers = await this.#headers(options)
    const body = options.body === undefined ? null : JSON.stringify(options.body)
    let response: Response
    try {
      const url = `${this.baseUrl}${path}${toQuery(options.query)}`
      response = await fetch(url, {
        method,
        headers,
        body,
        signal: options.signal ?? null,
        cache: "no-store",
      })
    } catch (thrown) {
      throw thrownBy(thrown, options.signal, "The server cannot be reached.")
    }
    if (response.status === 401) this.#options.onUnauthorized?.()
    if (!response.ok) throw await readProblem(response)
    return response
  }

  async #headers(options: CallOptions): Promise<Headers> {
    const headers = toHeaders(await this.ownHeaders())
    if (options.body !== undefined) headers.set("Content-Type", "application/json")
    for (const [name, value] of Object.entries(options.headers ?? {})) headers.set(name, value)
    return headers
  }
}

/** Only Latin-1 can be sent in a header: a key in another script is refused here, with a reason. */
function toHeaders(own: HeadersInit | undefined): Headers {
  try {
    return new Headers(own)
  } catch (thrown) {
    const detail = "The key has a character that cannot be sent. Check it, or copy it again."
    throw new StaffstreamError(detail, { code: "unauthorized", status: 401, cause: thrown })
  }
}

/** The JSON of an answer; null for an empty one. */
export async function readBody<T>(response: Response): Promise<T> {
  try {
    const body = await response.text()
    return (body === "" ? null : JSON.parse(body)) as T
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw connectionLost("The answer broke off.", thrown)
    throw badResponse(response.status, thrown)
  }
}

function readHead(response: Response): RunHead {
  return {
    runId: response.headers.get("X-Run-Id"),
    userMessageId: response.headers.get("X-User-Message-Id"),
    conversationId: response.headers.get("X-Conversation-Id"),
  }
}

async function* readMessages<T>(
  response: Response,
  onBytes: () => void,
  toItem: (message: EventSourceMessage) => T,
): AsyncGenerator<T, void> {
  if (!response.body || !/^text\/event-stream\b/i.test(response.headers.get("Content-Type") ?? "")) {
    throw badResponse(response.status)
  }
  const messages: EventSourceMessage[] = []
  const parser = createParser({ onEvent: message => messages.push(message) })
  const decoder = new TextDecoder()
  const reader = response.body.getReader()
  try {
    for (;;) {
      const { done, value } = await read(reader)
      if (done) return
      onBytes()
      parser.feed(decoder.decode(value, { stream: true }))
      for (const message of messages.splice(0)) yield toItem(message)
    }
  } finally {
    // A reader whose stream has already failed rejects here with the failure that is on its way out anyway.
    reader.cancel().catch(() => undefined)
  }
}

async function read(reader: ReadableStreamDefaultReader<Uint8Array>) {
  try {
    return await reader.read()
  } catch (thrown) {
    throw connectionLost("The stream broke off.", thrown)
  }
}

function toFrame(message: EventSourceMessage): Frame {
  const [, runId, cursor] = /^(.+):(\d+)$/.exec(message.id ?? "") ?? []
  const event = parseEvent<Frame["event"]>(message.data)
  return { event, runId: runId ?? null, cursor: cursor === undefined ? null : Number(cursor) }
}

function parseEvent<T extends { type: string }>(data: string): T {
  let event: T | null = null
  try {
    event = JSON.parse(data) as T
  } catch (thrown) {
    throw connectionLost("The stream was damaged on its way.", thrown)
  }
  if (typeof event?.type !== "string") throw connectionLost("The stream was damaged on its way.")
  return event
}

function toQuery(query: CallOptions["query"]): string {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null)
  return pairs.length === 0
    ? ""
    : `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}`
}

/** A caller's own abort keeps its reason; a timeout and everything else is a lost connection. */
function thrownBy(thrown: unknown, signal: AbortSignal | undefined, detail: string): unknown {
  if (!signal?.aborted) return connectionLost(detail, thrown)
  const isTimeout = signal.reason instanceof DOMException && signal.reason.name === "TimeoutError"
  return isTimeout ? connectionLost("The server did not answer in time.", thrown) : signal.reason
}

function badResponse(status: number, cause?: unknown): StaffstreamError {
  const detail = "The answer did not come from a staffstream server. Check baseUrl and any proxy between."
  return new StaffstreamError(detail, { code: "bad_response", status, cause })
}
