/** The calls that the page makes beside the chat, under names of its own. */
import type {
  Context,
  Graph,
  Memory,
  NewStaff,
  OperationInput,
  Section,
  Staff,
  StaffChanges,
  StaffClient,
} from "@staffstream/react"

export type {
  Conversation,
  Edge,
  Graph,
  Me,
  Memory,
  MemoryWhole,
  ModelPrices,
  NewStaff,
  Node,
  Staff,
  StaffChanges,
} from "@staffstream/react"

/** What one reply was built from; the API leaves open what the items of a section have. */
export interface ContextRecord extends Omit<Context, "sections" | "dropped"> {
  sections: (Omit<Section, "items"> & { items: ContextItem[] })[]
  dropped: DroppedItem[]
}
export type ContextSection = ContextRecord["sections"][number]
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

export class Api {
  readonly client: StaffClient

  constructor(client: StaffClient) {
    this.client = client
  }

  createStaff = (body: NewStaff): Promise<Staff> => this.client.request("POST /api/v1/staff", { body })
  updateStaff = (staff_id: string, body: StaffChanges) =>
    this.client.request("PATCH /api/v1/staff/{staff_id}", { path: { staff_id }, body })
  deleteStaff = (staff_id: string) =>
    this.client.request("DELETE /api/v1/staff/{staff_id}", { path: { staff_id } })

  createConversation = (staff_id: string, title: string) =>
    this.client.request("POST /api/v1/staff/{staff_id}/conversations", {
      path: { staff_id },
      body: { title },
    })
  renameConversation = (staff_id: string, conversation_id: string, title: string) =>
    this.client.request("PATCH /api/v1/staff/{staff_id}/conversations/{conversation_id}", {
      path: { staff_id, conversation_id },
      body: { title },
    })
  deleteConversation = (staff_id: string, conversation_id: string) =>
    this.client.request("DELETE /api/v1/staff/{staff_id}/conversations/{conversation_id}", {
      path: { staff_id, conversation_id },
    })

  addMemory = (staff_id: string, text: string) =>
    this.client.request("POST /api/v1/staff/{staff_id}/memories", {
      path: { staff_id },
      body: { text, kind: "fact" },
    })
  changeMemory = (staff_id: string, memory_id: string, body: { text?: string; pinned?: boolean }) =>
    this.client.request("PATCH /api/v1/staff/{staff_id}/memories/{memory_id}", {
      path: { staff_id, memory_id },
      body,
    })
  /** Out of every search, and restorable. With its source, the message that it came from is erased for good. */
  deleteMemory = (staff_id: string, memory_id: string, with_source = false) =>
    this.client.request("DELETE /api/v1/staff/{staff_id}/memories/{memory_id}", {
      path: { staff_id, memory_id },
      query: { with_source },
    })
  restoreMemory = (staff_id: string, memory_id: string): Promise<Memory> =>
    this.client.request("POST /api/v1/staff/{staff_id}/memories/{memory_id}/restore", {
      path: { staff_id, memory_id },
    })

  getGraph = (
    staff_id: string,
    query: OperationInput<"GET /api/v1/staff/{staff_id}/graph">["query"],
    signal?: AbortSignal,
  ): Promise<Graph> =>
    this.client.request("GET /api/v1/staff/{staff_id}/graph", {
      path: { staff_id },
      signal,
      ...(query && { query }),
    })
}
