/**
 * The server's calls, typed, for any JavaScript: nothing here knows React.
 *
 *     const client = new StaffClient()
 *     for await (const event of client.sendMessage(staffId, { content: "Hello!" })) {
 *       if (event.type === "token") show(event.content)
 *     }
 *
 * A reply is an async generator that survives dropped connections (see `follow.ts`). Leaving its loop, or aborting
 * its signal, only stops listening: the server goes on, and `cancelRun` is what stops it.
 */
import {
  DEFAULT_LIMITS,
  type FollowLimits,
  type FollowOptions,
  ReplyFollower,
  type ReplySource,
} from "./follow.ts"
import { type CallOptions, Http, type HttpOptions, type LiveStream, readBody } from "./http.ts"
import {
  fillOperation,
  type ListName,
  type OperationArguments,
  type OperationInput,
  type OperationName,
  type OperationResponse,
} from "./operations.ts"
import type { Feedback, Message, NewMessage, ReplyEvent, Run, RunHead } from "./types.ts"

export type { ErrorFields } from "./errors.ts"
export { StaffstreamError } from "./errors.ts"
export type { FollowLimits, FollowOptions, Transport } from "./follow.ts"
export type { HttpOptions } from "./http.ts"
export type {
  ListName,
  OperationArguments,
  OperationInput,
  OperationName,
  OperationResponse,
  Operations,
} from "./operations.ts"
export type * from "./types.ts"

/** After so long a stream is tried again: the proxy may have been another network's. */
const HELD_BACK_MS = 5 * 60_000

export interface ClientOptions extends HttpOptions {
  limits?: Partial<FollowLimits>
}

export interface SendOptions extends FollowOptions {
  /** One a submission. Repeating a call under the same key never sends the message twice. Default: a new one. */
  idempotencyKey?: string
}

export interface ListOptions {
  conversation_id?: string | undefined
  limit?: number
  /** The id of the message before which to list. */
  before?: string
  signal?: AbortSignal
}

export interface MessagePage {
  /** Newest first. */
  messages: Message[]
  /** Whether there are older ones. */
  hasMore: boolean
}

export class StaffClient {
  readonly #http: Http
  readonly #limits: FollowLimits
  /** Until when replies are polled, because a proxy was found to hold streams back. */
  #pollUntil = 0

  constructor(options: ClientOptions = {}) {
    this.#http = new Http(options)
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits }
  }

  get baseUrl(): string {
    return this.#http.baseUrl
  }

  /** Sends a message; its reply's events, ending in `done` or `error`. Raises `StaffstreamError` when refused. */
  sendMessage(
    staffId: string,
    message: NewMessage,
    options: SendOptions = {},
  ): AsyncGenerator<ReplyEvent, void> {
    const path = `${staffPath(staffId)}/messages`
    const call = { body: message, headers: { "Idempotency-Key": options.idempotencyKey ?? makeKey() } }
    return this.#follow(staffId, options, {
      open: (signal, onBytes) =>
        this.#http.stream("POST", `${path}/stream`, { ...call, ...toQuery(options), signal }, onBytes),
      start: async signal => toHead(await this.#http.json("POST", path, { ...call, signal })),
    })
  }

  /** Makes another reply to the user's message behind `messageId`; events as from `sendMessage`. */
  regenerate(
    staffId: string,
    messageId: string,
    options: SendOptions = {},
  ): AsyncGenerator<ReplyEvent, void> {
    const path = `${staffPath(staffId)}/messages/${encodeURIComponent(messageId)}/regenerate`
    const headers = { "Idempotency-Key": options.idempotencyKey ?? makeKey() }
    return this.#follow(staffId, options, {
      open: (signal, onBytes) =>
        this.#http.stream("POST", path, { headers, ...toQuery(options), signal }, onBytes),
      start: null,
    })
  }

  /** Joins a run: all its text after `options.after`, then what comes, then its end. */
  joinRun(staffId: string, runId: string, options: FollowOptions = {}): AsyncGenerator<ReplyEvent, void> {
    return this.#follow(staffId, { ...options, runId }, { open: null, start: null })
  }

  /** Stops a run for everyone; its final state. Does nothing to one that has ended. */
  cancelRun(staffId: string, runId: string): Promise<Run> {
    return this.#http.json("POST", `${runPath(staffId, runId)}/cancel`)
  }

  getRun(staffId: string, runId: string, signal?: AbortSignal): Promise<Run> {
    return this.#http.json("GET", runPath(staffId, runId), { signal })
  }

  getMessage(staffId: string, messageId: string, signal?: AbortSignal): Promise<Message> {
    return this.#http.json("GET", `${staffPath(staffId)}/messages/${encodeURIComponent(messageId)}`, {
      signal,
    })
  }

  /** A page of finished messages. */
  async listMessages(staffId: string, { signal, ...query }: ListOptions = {}): Promise<MessagePage> {
    const response = await this.#http.call("GET", `${staffPath(staffId)}/messages`, { query, signal })
    return { messages: await readBody<Message[]>(response), hasMore: leadsOn(response) }
  }

  /**
   * Any call of the API that answers once, by its name in /openapi.json, typed:
   *
   *     await client.request("GET /api/v1/staff/{staff_id}/graph", { path: { staff_id }, query: { depth: 2 } })
   */
  async request<Name extends OperationName>(
    name: Name,
    ...[input]: OperationArguments<Name>
  ): Promise<OperationResponse<Name>> {
    const response = await this.#request(name, input)
    const type = response.headers.get("Content-Type") ?? ""
    const isText = name.endsWith("/export") || (!name.includes(" /api/") && !type.includes("json"))
    return isText ? ((await response.text()) as OperationResponse<Name>) : readBody(response)
  }

  /** A page of a list, and whether another one follows: ask for it with the last id as `query.before`. */
  async requestPage<Name extends ListName>(
    name: Name,
    ...[input]: OperationArguments<Name>
  ): Promise<{ items: OperationResponse<Name>; hasMore: boolean }> {
    const response = await this.#request(name, input)
    return { items: await readBody(response), hasMore: leadsOn(response) }
  }

  #request<Name extends OperationName>(
    name: Name,
    input: OperationInput<Name> | undefined,
  ): Promise<Response> {
    const { path, ...options } = (input ?? {}) as CallOptions & { path?: Record<string, string> }
    return this.#http.call(...fillOperation(name, path), options)
  }

  async sendFeedback(staffId: string, messageId: string, feedback: Feedback): Promise<void> {
    const path = `${staffPath(staffId)}/messages/${encodeURIComponent(messageId)}/feedback`
    await this.#http.json("POST", path, { body: feedback })
  }

  /** The events of everything that changes for this user, after the one whose id is `lastEventId`. */
  listenLive(lastEventId: string | null, signal: AbortSignal, onBytes: () => void): Promise<LiveStream> {
    const headers = lastEventId === null ? {} : { "Last-Event-ID": lastEventId }
    return this.#http.events("GET", "/api/v1/events", { headers, signal }, onBytes)
  }

  /** Who this client is for the server, so that tabs can tell whether they are the same user; never the key itself. */
  async identify(): Promise<string> {
    const own = [...new Headers(await this.#http.ownHeaders())].join("\n")
    let hash = 0
    for (const char of own) hash = (Math.imul(hash, 31) + (char.codePointAt(0) ?? 0)) | 0
    return `${this.baseUrl}#${hash}`
  }

  async *#follow(
    staffId: string,
    options: FollowOptions,
    source: Pick<ReplySource, "open" | "start">,
  ): AsyncGenerator<ReplyEvent, void> {
    const transport = options.transport ?? "auto"
    const isPolled = transport === "auto" && Date.now() < this.#pollUntil
    const follower = new ReplyFollower(
      {
        ...source,
        join: (runId, after, signal, onBytes) =>
          this.#http.stream(
            "GET",
            `${runPath(staffId, runId)}/stream`,
            { ...toQuery(options, after), signal },
            onBytes,
          ),
        getRun: (runId, signal) => this.getRun(staffId, runId, signal),
        getMessage: (messageId, signal) => this.getMessage(staffId, messageId, signal),
      },
      this.#limits,
      { ...options, transport: isPolled ? "poll" : transport },
    )
    try {
      yield* follower.follow()
    } finally {
      if (transport === "auto" && !isPolled && follower.isPolling) this.#pollUntil = Date.now() + HELD_BACK_MS
    }
  }
}

/** A new idempotency key. `crypto.randomUUID` is missing on pages served over plain HTTP, so it is not used. */
export function makeKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte =>
    byte.toString(16).padStart(2, "0"),
  ).join("")
}

/** Whether another page follows (RFC 8288). */
function leadsOn(response: Response): boolean {
  return /\brel="?next"?/.test(response.headers.get("Link") ?? "")
}

function staffPath(staffId: string): string {
  return `/api/v1/staff/${encodeURIComponent(staffId)}`
}

function runPath(staffId: string, runId: string): string {
  return `${staffPath(staffId)}/runs/${encodeURIComponent(runId)}`
}

function toQuery(options: FollowOptions, after: number | null = null): Pick<CallOptions, "query"> {
  return { query: { after, events: options.withStatus ? "status" : null } }
}

function toHead(accepted: { run_id: string; message_id: string; conversation_id: string }): RunHead {
  return {
    runId: accepted.run_id,
    userMessageId: accepted.message_id,
    conversationId: accepted.conversation_id,
  }
}
