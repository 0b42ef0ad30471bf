/** The graph drawn: drag to move about, Ctrl and the wheel to come closer, click or press Enter on a node to go there. */
import { type PointerEvent, useEffect, useRef, useState } from "react"
import { toHue } from "../format.ts"
import type { PlacedEdge, PlacedNode } from "./layout.ts"

export interface GraphDrawingProps {
  nodes: PlacedNode[]
  edges: PlacedEdge[]
  /** The name of the entity in the middle of things. */
  present: string | null
  onVisit: (name: string) => void
}

interface View {
  x: number
  y: number
  /** Drawing units across the picture. */
  width: number
}

const MARGIN = 50
/** The width of a name's letter, more or less. */
const LETTER = 7.5
const RATIO = 0.9

export function GraphDrawing({ nodes, edges, present, onVisit }: GraphDrawingProps) {
  const svg = useRef<SVGSVGElement>(null)
  const [view, setView] = useState(() => fit(nodes))
  const held = useRef<{ x: number; y: number } | null>(null)
  useEffect(() => setView(fit(nodes)), [nodes])
  useWheel(svg, setView)

  const perPixel = () => view.width / (svg.current?.clientWidth || 1)
  const drag = (event: PointerEvent) => {
    if (held.current === null) return
    const { x, y } = held.current
    held.current = { x: event.clientX, y: event.clientY }
    setView(at => ({
      ...at,
      x: at.x - (event.clientX - x) * perPixel(),
      y: at.y - (event.clientY - y) * perPixel(),
    }))
  }
  const zoom = (factor: number) => setView(at => scale(at, factor))
  return (
    <figure
      className="graph"
      aria-label={`${nodes.length} things and ${edges.length} relations between them`}
    >
      {/* biome-ignore lint/a11y/noSvgWithoutTitle: the figure names it, and a title would pop up over every node */}
      <svg
        ref={svg}
        viewBox={`${view.x} ${view.y} ${view.width} ${view.width * RATIO}`}
        onPointerDown={event => {
          held.current = { x: event.clientX, y: event.clientY }
        }}
        onPointerMove={drag}
        onPointerUp={() => {
          held.current = null
        }}
        onPointerLeave={() => {
          held.current = null
        }}
      >
        <defs>
          <marker
            id="arrow"
            viewBox="0 0 8 8"
            refX="7"
            refY="4"
            markerWidth="7"
            markerHeight="7"
            orient="auto-start-reverse"
          >
            <path d="M0 0L8 4L0 8z" />
          </marker>
        </defs>
        {edges.map(edge => (
          <Edge key={edge.id} edge={edge} />
        ))}
        {nodes.map(node => (
          <Node key={node.id} node={node} isPresent={node.name === present} onVisit={onVisit} />
        ))}
      </svg>
      <figcaption>
        <button type="button" aria-label="Closer" onClick={() => zoom(0.8)}>
          +
        </button>
        <button type="button" aria-label="Farther" onClick={() => zoom(1.25)}>
          −
        </button>
        <button type="button" onClick={() => setView(fit(nodes))}>
          Fit
        </button>
      </figcaption>
    </figure>
  )
}

function Node({
  node,
  isPresent,
  onVisit,
}: {
  node: PlacedNode
  isPresent: boolean
  onVisit: (name: string) => void
}) {
  const radius = 11 + Math.min(9, node.degree * 1.5)
  const visit = () => onVisit(node.name)
  return (
    // biome-ignore lint/a11y/useSemanticElements: there is no button in SVG
    <g
      className="node"
      transform={`translate(${node.x} ${node.y})`}
      role="button"
      tabIndex={0}
      aria-label={node.type ? `${node.name}, ${node.type}` : node.name}
      aria-current={isPresent || undefined}
      style={{ "--hue": toHue(node.type || node.name) } as React.CSSProperties}
      onClick={visit}
      onKeyDown={event => event.key === "Enter" && visit()}
    >
      <circle r={radius} />
      <text y={radius + 14}>{shorten(node.name)}</text>
    </g>
  )
}

function Edge({ edge }: { edge: PlacedEdge }) {
  const { from, to, bend } = edge
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1
  const [ux, uy] = [(to.x - from.x) / length, (to.y - from.y) / length]
  // Parallel relations alternate between the two sides of the straight line.
  const offset = Math.ceil(bend / 2) * 34 * (bend % 2 === 0 ? 1 : -1)
  const middle = { x: (from.x + to.x) / 2 - uy * offset, y: (from.y + to.y) / 2 + ux * offset }
  const end = { x: to.x - ux * 22, y: to.y - uy * 22 }
  return (
    <g className="edge" data-past={Boolean(edge.valid_to)}>
      <path d={`M${from.x} ${from.y}Q${middle.x} ${middle.y} ${end.x} ${end.y}`} markerEnd="url(#arrow)" />
      <text x={(middle.x + (from.x + to.x) / 2) / 2} y={(middle.y + (from.y + to.y) / 2) / 2 - 4}>
        {shorten(edge.predicate.replaceAll("_", " "))}
      </text>
    </g>
  )
}

function fit(nodes: PlacedNode[]): View {
  const ys = nodes.map(node => node.y)
  const reach = (node: PlacedNode) => Math.max(MARGIN, (shorten(node.name).length * LETTER) / 2 + 8)
  const left = Math.min(...nodes.map(node => node.x - reach(node)))
  const right = Math.max(...nodes.map(node => node.x + reach(node)))
  const [top, bottom] = [Math.min(...ys) - MARGIN, Math.max(...ys) + MARGIN]
  const width = Math.max(right - left, (bottom - top) / RATIO, 320)
  return { x: (left + right - width) / 2, y: (top + bottom - width * RATIO) / 2, width }
}

function scale(view: View, factor: number): View {
  const width = Math.min(8000, Math.max(120, view.width * factor))
  const by = (view.width - width) / 2
  return { x: view.x + by, y: view.y + by * RATIO, width }
}

/** React listens to the wheel passively, so the page would scroll along. */
function useWheel(
  svg: React.RefObject<SVGSVGElement | null>,
  setView: (change: (view: View) => View) => void,
): void {
  useEffect(() => {
    const element = svg.current
    if (element === null) return
    const hear = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey) return
      event.preventDefault()
      setView(view => scale(view, event.deltaY > 0 ? 1.1 : 0.9))
    }
    element.addEventListener("wheel", hear, { passive: false })
    return () => element.removeEventListener("wheel", hear)
  }, [svg, setView])
}

function shorten(text: string): string {
  const characters = [...text]
  return characters.length > 22 ? `${characters.slice(0, 21).join("")}…` : text
}
