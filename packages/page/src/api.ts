/** The calls that the page makes beside the chat, as the server's contract has them. */
import type { StaffClient } from "@staffstream/react"

/** What a model costs, in US dollars for a million tokens; `name` stands for all names that begin with it. */
export interface ModelPrices {
  name: string
  input: number
  output: number
  cache_write: number
  cache_read: number
}

export interface Me {
  user_id: string
  role: "admin" | "member"
  /** A stand-in answers in Claude's place. */
  offline: boolean
  model: string
  context_budget_tokens: number
  max_output_tokens: number
}

export interface Staff {
  id: string
  name: string
  role: string
  persona: string
  model: string | null
  context_budget_tokens: number | null
  max_output_tokens: number | null
  webhook_url: string | null
  memory_enabled: boolean
}

export type StaffFields = Partial<Omit<Staff, "id">> & { name: string }

export interface Conversation {
  id: string
  title: string
  user_name: string
  is_default: boolean
  updated_at: string
}

/** What one reply was built from. */
export interface ContextRecord {
  model: string
  budget_tokens: number
  total_tokens: number
  sections: ContextSection[]
  dropped?: DroppedItem[]
  notes?: string[]
}
export interface ContextSection {
  name: string
  tokens: number
  items: ContextItem[]
}
export interface ContextItem {
  id?: string
  text?: string
  message_id?: string
  message_type?: string
  tokens?: number
  score?: number
  kind?: string
  occurred_at?: string
  source_message_id?: string | null
}
export interface DroppedItem {
  source: string
  reason: string
  text?: string
  score?: number
  message_ids?: string[]
}

export interface Memory {
  id: string
  text: string
  kind: string
  occurred_at: string
  valid_from?: string | null
  valid_to?: string | null
  score?: number | null
  pinned?: boolean
  importance?: number
  category?: string | null
  speaker?: string | null
  quote?: string | null
  deleted_at?: string | null
  superseded_by?: string | null
  source_message_id?: string | null
}
/** A memory with what it was before, and the message that it was learned from. */
export interface MemoryDetails extends Memory {
  history?: Memory[]
  source_message?: {
    id: string
    content: string
    message_type: string
    conversation_id: string
    created_at: string
  } | null
}

export interface Graph {
  nodes: GraphNode[]
  edges: GraphEdge[]
}
export interface GraphNode {
  id: string
  name: string
  type?: string
}
export interface GraphEdge {
  id: string
  source: string
  target: string
  predicate: string
  valid_from?: string | null
  valid_to?: string | null
  source_message_id?: string | null
  memory_id?: string | null
}

export class Api {
  readonly client: StaffClient

  constructor(client: StaffClient) {
    this.client = client
  }

  listStaff = (signal?: AbortSignal) => this.client.call<Staff[]>("GET", "/staff", { signal })
  createStaff = (body: StaffFields) => this.client.call<Staff>("POST", "/staff", { body })
  updateStaff = (id: string, body: Partial<StaffFields>) => this.client.call<Staff>("PATCH", at(id), { body })
  deleteStaff = (id: string) => this.client.call<null>("DELETE", at(id))

  getMe = (signal?: AbortSignal) => this.client.call<Me>("GET", "/me", { signal })
  listModels = (signal?: AbortSignal) => this.client.call<ModelPrices[]>("GET", "/models", { signal })
  getLearning = (staffId: string, signal?: AbortSignal) =>
    this.client.call<{ waiting_messages: number }>("GET", at(staffId, "learning"), { signal })
  learnNow = (staffId: string) => this.client.call<null>("POST", at(staffId, "learning"))

  createConversation = (staffId: string, title: string) =>
    this.client.call<Conversation>("POST", at(staffId, "conversations"), { body: { title } })
  renameConversation = (staffId: string, id: string, title: string) =>
    this.client.call<Conversation>("PATCH", at(staffId, "conversations", id), { body: { title } })
  deleteConversation = (staffId: string, id: string) =>
    this.client.call<null>("DELETE", at(staffId, "conversations", id))

  getContext = (staffId: string, messageId: string, signal?: AbortSignal) =>
    this.client.call<ContextRecord>("GET", at(staffId, "messages", messageId, "context"), { signal })

  addMemory = (staffId: string, text: string) =>
    this.client.call<Memory | Memory[]>("POST", at(staffId, "memories"), { body: { text } })
  changeMemory = (staffId: string, id: string, body: { text?: string; pinned?: boolean }) =>
    this.client.call<Memory>("PATCH", at(staffId, "memories", id), { body })
  /** Out of every search, and restorable. With its source, the message that it came from is erased for good. */
  deleteMemory = (staffId: string, id: string, withSource = false) =>
    this.client.call<null>("DELETE", at(staffId, "memories", id), {
      query: { ...(withSource && { with_source: true }) },
    })
  restoreMemory = (staffId: string, id: string) =>
    this.client.call<Memory>("POST", at(staffId, "memories", id, "restore"))
  getMemory = (staffId: string, id: string, signal?: AbortSignal) =>
    this.client.call<MemoryDetails>("GET", at(staffId, "memories", id), { signal })

  getGraph = (
    staffId: string,
    query: { entity?: string | null; depth?: number; ended?: boolean },
    signal?: AbortSignal,
  ) => this.client.call<Graph>("GET", at(staffId, "graph"), { query, signal })
}

function at(...parts: string[]): string {
  return `/staff/${parts.map(encodeURIComponent).join("/")}`
}
