/** Memories and a graph as the contract shapes them, for what a fresh server does not have yet. */
import type { Graph, Memory, MemoryWhole } from "../src/api.ts"

const memory = (id: string, text: string, more: Partial<Memory> = {}): Memory => ({
  id,
  text,
  kind: "fact",
  subject: "user",
  predicate: null,
  object: null,
  category: null,
  quote: null,
  importance: 0.5,
  states_relation: false,
  speaker: "Kim",
  conversation_id: null,
  source_message_id: null,
  superseded_by: null,
  reinforced_at: null,
  reinforcements: 0,
  deleted_at: null,
  created_at: "2026-11-02T09:30:00.000Z",
  occurred_at: "2026-11-02T09:30:00.000Z",
  valid_from: "2026-11-02T09:30:00.000Z",
  valid_to: null,
  pinned: false,
  ...more,
})

export const MEMORIES: Memory[] = [
  memory("m1", "Kim lives in Bergen.", { pinned: true, category: "place" }),
  memory("m2", "Kim's sister Anna plays the piano.", { category: "family" }),
  memory("m3", "Kim is learning the cello since last spring.", { category: "hobby" }),
  memory("m4", "I am learning the cello, and my sister Anna plays the piano.", { kind: "episode" }),
  memory("m5", "<img src=x onerror=\"document.title='owned'\"> **bold** [x](javascript:alert(1))"),
]

export const DETAILS: MemoryWhole = {
  ...(MEMORIES[0] as Memory),
  history: [
    memory("m0", "Kim lives in Oslo.", {
      valid_from: "2024-03-01T10:00:00.000Z",
      valid_to: "2026-11-02T09:30:00.000Z",
    }),
  ],
  source_message: {
    id: "x",
    staff_id: "s",
    status: "complete",
    content: "Hello! My name is Kim and I live in Bergen.",
    message_type: "user",
    conversation_id: "c",
    created_at: "2026-11-02T09:30:00.000Z",
  },
}

const node = (name: string, type: string) => ({ id: name, name, type, aliases: [] })
const edge = (source: string, predicate: string, target: string, valid_to: string | null = null) => ({
  id: `${source} ${predicate} ${target}`,
  source,
  target,
  predicate,
  text: `${source} ${predicate} ${target}`,
  valid_from: "2026-11-02T09:30:00.000Z",
  valid_to,
  memory_id: null,
  source_message_id: null,
})

export const GRAPH: Graph = {
  nodes: [
    node("Kim", "person"),
    node("Anna", "person"),
    node("Bergen", "place"),
    node("Oslo", "place"),
    node("cello", "thing"),
    node("piano", "thing"),
    node("Grieg Academy", "organisation"),
    node("Norway", "place"),
  ],
  edges: [
    edge("Kim", "lives_in", "Bergen"),
    edge("Kim", "lived_in", "Oslo", "2026-11-02T09:30:00.000Z"),
    edge("Anna", "sister_of", "Kim"),
    edge("Kim", "teaches", "Anna"),
    edge("Kim", "plays", "cello"),
    edge("Anna", "plays", "piano"),
    edge("Anna", "studies_at", "Grieg Academy"),
    edge("Grieg Academy", "located_in", "Bergen"),
    edge("Bergen", "located_in", "Norway"),
    edge("Oslo", "located_in", "Norway"),
  ],
}
