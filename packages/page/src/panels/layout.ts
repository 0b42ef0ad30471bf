/** Where the nodes of a graph stand: a simulation of springs and charges, run to its rest at once. */
import {
  forceCenter,
  forceCollide,
  forceLink,
  forceManyBody,
  forceSimulation,
  forceX,
  forceY,
} from "d3-force"
import type { Edge, Graph, Node } from "../api.ts"

export interface PlacedNode extends Node {
  x: number
  y: number
  degree: number
}

export interface PlacedEdge extends Edge {
  from: PlacedNode
  to: PlacedNode
  /** Several relations between the same two are drawn as arcs of growing bend. */
  bend: number
}

/** Deterministic: the same graph looks the same each time. */
export function placeGraph({ nodes, edges }: Graph): { nodes: PlacedNode[]; edges: PlacedEdge[] } {
  const degrees = new Map<string, number>()
  for (const id of edges.flatMap(edge => [edge.source, edge.target]))
    degrees.set(id, (degrees.get(id) ?? 0) + 1)
  const placed: PlacedNode[] = nodes.map(node => ({ ...node, x: 0, y: 0, degree: degrees.get(node.id) ?? 0 }))
  const byId = new Map(placed.map(node => [node.id, node]))
  const joined = edges.filter(edge => byId.has(edge.source) && byId.has(edge.target))
  forceSimulation(placed)
    .force(
      "link",
      forceLink<PlacedNode, { source: string; target: string }>(joined.map(pick))
        .id(node => node.id)
        .distance(125),
    )
    .force("charge", forceManyBody().strength(-650))
    .force("collide", forceCollide(44))
    .force("center", forceCenter(0, 0))
    .force("x", forceX(0).strength(0.06))
    .force("y", forceY(0).strength(0.09))
    .stop()
    .tick(240)
  const seen = new Map<string, number>()
  return {
    nodes: placed,
    edges: joined.map(edge => {
      const pair = [edge.source, edge.target].sort().join(" ")
      const bend = seen.get(pair) ?? 0
      seen.set(pair, bend + 1)
      return {
        ...edge,
        from: byId.get(edge.source) as PlacedNode,
        to: byId.get(edge.target) as PlacedNode,
        bend,
      }
    }),
  }
}

/** The simulation puts nodes in the place of these ids, so it gets its own objects. */
function pick({ source, target }: Edge): { source: string; target: string } {
  return { source, target }
}
