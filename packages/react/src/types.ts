/** The server's words in TypeScript: what it describes in /openapi.json, and what this package makes of its streams. */

import type {
  DoneEvent,
  ErrorEvent,
  Event,
  Feedback,
  NewMessage,
  Run,
  Message as SavedMessage,
  StatusEvent,
} from "./generated/api.ts"

export type {
  Context,
  Conversation,
  Delivery,
  DoneEvent,
  Edge,
  ErrorEvent,
  Feedback,
  Graph,
  Job,
  Key,
  LiveEvent,
  Me,
  Memory,
  MemoryGroup,
  MemoryOverview,
  MemoryWhole,
  ModelPrices,
  NewMessage,
  NewStaff,
  Node,
  Run,
  Section,
  Staff,
  StaffChanges,
  StatusEvent,
  TokenEvent,
  Usage,
} from "./generated/api.ts"

export type MessageType = SavedMessage["message_type"]
export type MultitaskStrategy = NonNullable<NewMessage["multitask_strategy"]>
export type RunState = Run["state"]

type Optional = "reply_to" | "model" | "stop_reason" | "usage" | "feedback"

/** A message as it is held here: what is absent on the wire may also be null until it is known. */
export type Message = Omit<SavedMessage, Optional> & {
  [Name in Exclude<Optional, "feedback">]?: SavedMessage[Name] | null
} & { feedback?: Feedback | null }

/** Which run a stream belongs to; a field is null when a proxy or the browser hid its header. */
export interface RunHead {
  runId: string | null
  userMessageId: string | null
  conversationId: string | null
}

/** One frame of the event stream: its event, and what its `id:` line said. */
export interface Frame {
  event: Event
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
