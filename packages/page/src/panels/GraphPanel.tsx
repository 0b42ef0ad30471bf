/** People, places and things, and how they hang together: drawn, to be walked through, and as a list of sentences. */
import { useMemoryEvents, useResource } from "@staffstream/react"
import { useMemo, useState } from "react"
import type { Edge, Node } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { formatDay } from "../format.ts"
import { Icon } from "../icons.tsx"
import { MemoryCardById } from "../memory/MemoryCard.tsx"
import { ErrorText, IconButton, Spinner } from "../parts.tsx"
import { useRoute } from "../route.ts"
import { useTexts } from "../texts/texts.ts"
import { GraphDrawing } from "./GraphDrawing.tsx"
import { placeGraph } from "./layout.ts"

export function GraphPanel({ entity }: { entity: string | null }) {
  const api = useApi()
  const staff = useStaff()
  const [, go] = useRoute()
  const [depth, setDepth] = useState(2)
  const [typed, setTyped] = useState("")
  const [withPast, setWithPast] = useState(false)
  const graph = useResource(
    (_, signal) => api.getGraph(staff.id, { entity, depth, ended: withPast }, signal),
    [api, staff.id, entity, depth, withPast],
    useMemoryEvents(staff.id),
  )
  const placed = useMemo(() => (graph.data ? placeGraph(graph.data) : null), [graph.data])
  const visit = (name: string | null) => go({ focus: name })
  return (
    <>
      <form
        className="search"
        onSubmit={event => {
          event.preventDefault()
          visit(typed.trim() || null)
        }}
      >
        <Icon name="search" />
        <input
          type="search"
          value={typed}
          dir="auto"
          placeholder="A person, place or thing"
          aria-label="Look for a person, place or thing"
          onChange={e => setTyped(e.target.value)}
        />
      </form>
      <fieldset className="kinds" aria-label="How much of it">
        {entity !== null &&
          [1, 2, 3].map(steps => (
            <button key={steps} type="button" aria-pressed={depth === steps} onClick={() => setDepth(steps)}>
              {steps === 1 ? "1 step" : `${steps} steps`}
            </button>
          ))}
        <button type="button" aria-pressed={withPast} onClick={() => setWithPast(!withPast)}>
          With the past
        </button>
        {entity !== null && (
          <button type="button" onClick={() => visit(null)}>
            Everything
          </button>
        )}
      </fieldset>
      <ErrorText error={graph.error} />
      {placed === null && graph.error === null && <Spinner />}
      {placed?.nodes.length === 0 && (
        <p className="quiet">{entity ? `Nothing is known about ${entity}.` : "Nothing is known yet."}</p>
      )}
      {placed && placed.nodes.length > 0 && (
        <>
          <GraphDrawing nodes={placed.nodes} edges={placed.edges} present={entity} onVisit={visit} />
          <Sentences nodes={placed.nodes} edges={placed.edges} onVisit={visit} />
        </>
      )}
    </>
  )
}

function Sentences({
  nodes,
  edges,
  onVisit,
}: {
  nodes: Node[]
  edges: Edge[]
  onVisit: (name: string) => void
}) {
  const t = useTexts()
  const [open, setOpen] = useState<string | null>(null)
  const names = new Map(nodes.map(node => [node.id, node.name]))
  const word = (id: string) => (
    <button type="button" className="link" onClick={() => onVisit(names.get(id) ?? "")}>
      {names.get(id)}
    </button>
  )
  return (
    <ul className="items">
      {edges.map(edge => (
        <li key={edge.id} className="item" data-past={Boolean(edge.valid_to)}>
          <p>
            {word(edge.source)} {edge.predicate.replaceAll("_", " ")} {word(edge.target)}
          </p>
          <p className="item-foot">
            <time dateTime={edge.valid_from}>{t.since(formatDay(edge.valid_from))}</time>
            {edge.valid_to && <span className="chip">{t.until(formatDay(edge.valid_to))}</span>}
            {edge.memory_id && (
              <span className="item-buttons">
                <IconButton
                  icon="memory"
                  label={t.openMemory}
                  aria-expanded={open === edge.id}
                  onClick={() => setOpen(open === edge.id ? null : edge.id)}
                />
              </span>
            )}
          </p>
          {edge.memory_id && open === edge.id && <MemoryCardById id={edge.memory_id} />}
        </li>
      ))}
    </ul>
  )
}
