/**
 * One question and its answer while it is made: what the events of the reply make of them.
 *
 * It does no I/O. The store feeds it events, shows its messages, and keeps those that it ends with.
 */
import { makeKey } from "./client.ts"
import { StaffstreamError } from "./errors.ts"
import type { ChatMessage } from "./messages.ts"
import type { Pending } from "./pending.ts"
import type { DoneEvent, ErrorEvent, MultitaskStrategy, ReplyEvent } from "./types.ts"

/** How a submission ended. `refused`: nothing was saved. `detached`: nobody listens here, the server goes on. */
export interface SendResult {
  status: "done" | "cancelled" | "failed" | "refused" | "detached"
  message: ChatMessage | null
  error: StaffstreamError | null
}

/** Figures of a reply, in milliseconds since the epoch or since sending. */
export interface Progress {
  runId: string | null
  /** What the server is at: `building`, `thinking`, `responding`; null before it has said. */
  phase: string | null
  sentAt: number
  firstTokenMs: number | null
  /** From sending to the end; null while it lasts. */
  totalMs: number | null
  /** Frames of text, which is about Claude's tokens. */
  tokens: number
}

export interface LiveRunFields {
  staffId: string
  conversationId: string | null
  /** The text to send; null for a reply that is made anew, or only joined. */
  content?: string | null
  /** The message whose reply is made anew, and the question that is answered. */
  regenerates?: string | null
  replyTo?: string | null
  /** The run to join, and whether a page before this one had left it. */
  runId?: string | null
  isRemembered?: boolean
  /** The idempotency key of the submission; a retry brings its own. */
  key?: string
  strategy?: MultitaskStrategy | undefined
}

/** Why listening ended, when it was not the reply that ended. */
export type LeaveCause = "detached" | "interrupted" | "stopped"

export class LiveRun {
  readonly fields: LiveRunFields
  readonly key: string
  user: ChatMessage | null
  reply: ChatMessage
  progress: Progress
  /** True once the server has named the run. */
  isAccepted: boolean
  isStopping = false
  /** True while the connection is down. */
  isLost = false
  leaveCause: LeaveCause | null = null
  result: Promise<SendResult> | null = null
  readonly #leave = new AbortController()
  /** What was shown of this reply before it was left, until as much has come again. */
  #known = ""

  constructor(fields: LiveRunFields) {
    const runId = fields.runId ?? null
    this.fields = fields
    this.key = fields.key ?? makeKey()
    this.isAccepted = runId !== null
    this.user = fields.content ? draft(fields, "user", this.key, fields.content) : null
    this.reply = draft(fields, "assistant", runId ?? this.key, "")
    this.progress = { runId, phase: null, sentAt: Date.now(), firstTokenMs: null, totalMs: null, tokens: 0 }
  }

  get signal(): AbortSignal {
    return this.#leave.signal
  }

  /** Stops listening; the run itself goes on. */
  leave(cause: LeaveCause): void {
    this.leaveCause ??= cause
    this.#leave.abort()
  }

  /** The same submission, to be tried again under the same key. */
  again(): LiveRun {
    return new LiveRun({ ...this.fields, key: this.key })
  }

  get messages(): ChatMessage[] {
    const hasMore = this.reply.status !== "streaming" || this.reply.content.length >= this.#known.length
    const reply = hasMore ? this.reply : { ...this.reply, content: this.#known }
    return this.user === null ? [reply] : [this.user, reply]
  }

  /** Takes over what was shown of the same reply before it was left. */
  takeOver(left: LiveRun): void {
    this.user = left.user
    this.reply = { ...this.reply, key: left.reply.key, reply_to: left.reply.reply_to ?? null }
    this.#known = left.messages.at(-1)?.content ?? ""
  }

  /** What a reload needs to find this reply again; null when there is nothing it could do. */
  get pending(): Pending | null {
    const { content = null } = this.fields
    if (!this.isAccepted && content === null) return null
    const runId = this.isAccepted ? this.reply.id : null
    return { key: this.key, runId, content: runId === null ? content : null, at: Date.now() }
  }

  apply(event: Exclude<ReplyEvent, DoneEvent | ErrorEvent>): void {
    if (event.type === "accepted") this.#accept(event)
    else if (event.type === "connection") this.isLost = event.state === "lost"
    else if (event.type === "status") this.progress = { ...this.progress, phase: event.phase }
    else if (event.type === "reset") this.#reset(event.content)
    else if (event.type === "token") this.#write(this.reply.content + event.content)
  }

  /** The server has the question, even if no answer came of it. */
  keepQuestion(userMessageId: string | null): void {
    if (this.user) this.user = { ...this.user, id: userMessageId ?? this.user.id, status: "complete" }
  }

  end(event: DoneEvent | ErrorEvent): SendResult {
    this.progress = { ...this.progress, totalMs: Date.now() - this.progress.sentAt }
    const error = event.type === "error" ? this.#toError(event) : null
    const isCancelled = event.type === "done" && event.cancelled === true
    this.reply = {
      ...this.reply,
      id: event.message_id ?? this.reply.id,
      status: error ? "interrupted" : isCancelled ? "cancelled" : "complete",
      ...(event.type === "done" && { stop_reason: event.stop_reason ?? null, usage: event.usage ?? null }),
    }
    const message = event.message_id || this.reply.content !== "" ? this.reply : null
    return { status: error ? "failed" : isCancelled ? "cancelled" : "done", message, error }
  }

  #accept(head: Extract<ReplyEvent, { type: "accepted" }>): void {
    this.isAccepted = true
    this.keepQuestion(head.userMessageId)
    const replyTo = this.reply.reply_to ?? head.userMessageId
    this.reply = { ...this.reply, id: head.runId ?? this.reply.id, reply_to: replyTo }
    this.progress = { ...this.progress, runId: head.runId }
  }

  #reset(content: string): void {
    this.#known = ""
    this.#write(content)
  }

  #write(content: string): void {
    const { firstTokenMs, sentAt, tokens } = this.progress
    this.reply = { ...this.reply, content }
    this.progress = {
      ...this.progress,
      firstTokenMs: firstTokenMs ?? Date.now() - sentAt,
      tokens: tokens + 1,
    }
  }

  #toError(event: ErrorEvent): StaffstreamError {
    return new StaffstreamError(event.detail, {
      code: event.code ?? "internal_error",
      retryable: event.retryable ?? false,
      status: 200,
      runId: this.reply.id,
      userMessageId: this.user?.id ?? this.reply.reply_to ?? null,
    })
  }
}

function draft(
  fields: LiveRunFields,
  type: ChatMessage["message_type"],
  id: string,
  content: string,
): ChatMessage {
  return {
    id: type === "user" ? `draft-${id}` : id,
    key: `${type}-${id}`,
    staff_id: fields.staffId,
    conversation_id: fields.conversationId ?? "",
    message_type: type,
    content,
    status: type === "user" ? "sending" : "streaming",
    created_at: new Date().toISOString(),
    reply_to: type === "user" ? null : (fields.replyTo ?? null),
  }
}
