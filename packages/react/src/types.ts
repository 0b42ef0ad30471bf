/** The server's words in TypeScript, spelt as they are on the wire, so that one name means one thing everywhere. */

export type MessageType = "user" | "assistant"
export type MultitaskStrategy = "reject" | "enqueue" | "interrupt"
export type RunState = "queued" | "building" | "streaming" | "done" | "failed" | "cancelled"

/** Token counts as Claude's API reports them. */
export interface Usage {
  input_tokens?: number
  output_tokens?: number
  cache_read_input_tokens?: number | null
  cache_creation_input_tokens?: number | null
}

export interface Feedback {
  rating: 1 | -1
  comment?: string | null
}

export interface Message {
  id: string
  staff_id: string
  conversation_id: string
  message_type: MessageType
  content: string
  status: "complete" | "cancelled" | "interrupted"
  created_at: string
  reply_to?: string | null
  model?: string | null
  stop_reason?: string | null
  usage?: Usage | null
  feedback?: Feedback | null
}

export interface Run {
  id: string
  state: RunState
  partial_text: string
  cursor: number
  conversation_id?: string
  user_message_id?: string
  message_id?: string | null
  stop_reason?: string | null
  usage?: Usage | null
  error?: { code: string; detail: string; retryable: boolean } | null
}

export interface NewMessage {
  content: string
  conversation_id?: string
  multitask_strategy?: MultitaskStrategy
}

/** Which run a stream belongs to; a field is null when a proxy or the browser hid its header. */
export interface RunHead {
  runId: string | null
  userMessageId: string | null
  conversationId: string | null
}

export interface TokenEvent {
  type: "token"
  content: string
}
export interface StatusEvent {
  type: "status"
  phase: string
  elapsed_ms: number
  tokens: number
}
export interface DoneEvent {
  type: "done"
  message_id: string | null
  stop_reason?: string | null
  usage?: Usage | null
  cancelled?: boolean
}
export interface ErrorEvent {
  type: "error"
  detail: string
  code?: string
  retryable?: boolean
  message_id?: string | null
}

/** One frame of the event stream: its event, and what its `id:` line said. */
export interface Frame {
  event: TokenEvent | StatusEvent | DoneEvent | ErrorEvent
  runId: string | null
  cursor: number | null
}

/**
 * What a followed reply tells, in order: `accepted` once, then text, then exactly one `done` or `error`.
 * `reset` replaces all the text so far; `connection` says that the stream was lost or found again.
 */
export type ReplyEvent =
  | ({ type: "accepted" } & RunHead)
  | { type: "token"; content: string; cursor: number | null }
  | { type: "reset"; content: string; cursor: number | null }
  | { type: "connection"; state: "lost" | "found"; attempt: number }
  | StatusEvent
  | DoneEvent
  | ErrorEvent
