/** What one reply was built from: the sections of its prompt as bars, their items with scores, and what was left out. */
import { useReplyContext, useStaffStreaming } from "@staffstream/react"
import { useState } from "react"
import type { ContextItem, ContextRecord, ContextSection, DroppedItem } from "../api.ts"
import { useStaff } from "../context.ts"
import { formatCount, formatDay } from "../format.ts"
import { MemoryCardById } from "../memory/MemoryCard.tsx"
import { ErrorText, IconButton, Spinner } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { Score } from "./Score.tsx"

const NAMES: Record<string, string> = {
  persona: "Persona",
  summary: "Summary",
  recent_turns: "Recent turns",
  memories: "Memories",
  graph: "Graph",
  question: "Your message",
}

const nameOf = (section: string) => NAMES[section] ?? section.replaceAll("_", " ")

export function WhyPanel({
  messageId,
  conversationId,
}: {
  messageId: string
  conversationId: string | null
}) {
  const staff = useStaff()
  const context = useReplyContext(staff.id, messageId)
  const { messages } = useStaffStreaming(staff.id, { conversationId })
  if (context.error) return <ErrorText error={context.error} />
  if (context.data === null) return <Spinner />
  const record = context.data as unknown as ContextRecord
  const { sections, dropped, notes } = record
  const texts = new Map(messages.map(message => [message.id, message.content]))
  return (
    <>
      <Budget record={record} />
      {sections.map(section => (
        <Section key={section.name} section={section} texts={texts} />
      ))}
      {dropped.length > 0 && <Dropped items={dropped} />}
      {notes.length > 0 && (
        <ul className="notes">
          {notes.map(note => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
      <p className="quiet">Model: {record.model}</p>
    </>
  )
}

/** The budget as one bar, each section with its share of it. */
function Budget({ record }: { record: ContextRecord }) {
  const { sections, total_tokens, budget_tokens } = record
  const filled = sections.filter(section => section.tokens > 0)
  return (
    <figure className="budget">
      <figcaption>
        <b>{formatCount(total_tokens)}</b> of {formatCount(budget_tokens)} tokens
      </figcaption>
      <div className="bar" aria-hidden="true">
        {filled.map(section => (
          <i
            key={section.name}
            data-section={section.name}
            title={`${nameOf(section.name)}: ${formatCount(section.tokens)}`}
            style={{ inlineSize: `${(section.tokens / Math.max(budget_tokens, total_tokens)) * 100}%` }}
          />
        ))}
      </div>
      <ul className="legend">
        {filled.map(section => (
          <li key={section.name} data-section={section.name}>
            {nameOf(section.name)} <b>{formatCount(section.tokens)}</b>
          </li>
        ))}
      </ul>
    </figure>
  )
}

function Section({ section, texts }: { section: ContextSection; texts: Map<string, string> }) {
  if (section.items.length === 0) return null
  const isEvidence = section.name === "memories" || section.name === "graph"
  return (
    <details className="section" open={isEvidence} data-section={section.name}>
      <summary>
        {nameOf(section.name)}
        <span className="quiet">
          {section.items.length > 1 && `${section.items.length} items, `}
          {formatCount(section.tokens)} tokens
        </span>
      </summary>
      <ul className="items">
        {section.items.map((item, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a record never changes, and not every item has an id
          <Item key={index} item={item} texts={texts} />
        ))}
      </ul>
    </details>
  )
}

function Item({ item, texts }: { item: ContextItem; texts: Map<string, string> }) {
  const t = useTexts()
  const [isOpen, setOpen] = useState(false)
  const memoryId = item.kind === "fact" || item.kind === "episode" ? item.id : undefined
  const text = item.text ?? texts.get(item.message_id ?? "") ?? "A message further back."
  return (
    <li className="item">
      <p dir="auto">{text}</p>
      <p className="item-foot">
        {item.score !== undefined && <Score score={item.score} />}
        {item.kind && <span className="chip">{item.kind}</span>}
        {item.message_type && <span className="chip">{item.message_type}</span>}
        {item.occurred_at && <time dateTime={item.occurred_at}>{formatDay(item.occurred_at)}</time>}
        {item.tokens !== undefined && <span>{formatCount(item.tokens)} tokens</span>}
        {memoryId && (
          <span className="item-buttons">
            <IconButton
              icon="memory"
              label={t.openMemory}
              aria-expanded={isOpen}
              onClick={() => setOpen(!isOpen)}
            />
          </span>
        )}
      </p>
      {isOpen && memoryId && <MemoryCardById id={memoryId} />}
    </li>
  )
}

function Dropped({ items }: { items: DroppedItem[] }) {
  return (
    <details className="section" data-section="dropped">
      <summary>
        Left out <span className="quiet">{items.length}</span>
      </summary>
      <ul className="items">
        {items.map((item, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a record never changes, and not every item has an id
          <li key={index} className="item">
            <p dir="auto">{item.text ?? `An earlier run (${item.message_ids?.length ?? 1} messages)`}</p>
            <p className="item-foot">
              {item.score !== undefined && <Score score={item.score} />}
              <span className="chip">{item.reason}</span>
            </p>
          </li>
        ))}
      </ul>
    </details>
  )
}
