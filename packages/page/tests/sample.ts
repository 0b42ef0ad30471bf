/** A graph as the contract shapes it, richer than the stand-in makes one. */
import type { Graph } from "../src/api.ts"

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
