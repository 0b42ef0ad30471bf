/** Memories in pages. What was changed or forgotten here keeps its place, with its way back, until the list changes. */
import { type MemoryFilter, useMemories } from "@staffstream/react"
import { useMemo, useState } from "react"
import type { Memory } from "../api.ts"
import { useStaff } from "../context.ts"
import { ErrorText, Spinner } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { MemoryCard } from "./MemoryCard.tsx"

interface MemoryListProps {
  /** Give another `key` with another filter: it begins without changes. */
  filter: MemoryFilter
  /** The memory whose card is open. */
  openId: string | null
  /** What to say when there is nothing. */
  empty: string | null
  pageSize?: number
}

export function MemoryList({ filter, openId, empty, pageSize = 50 }: MemoryListProps) {
  const t = useTexts()
  const staff = useStaff()
  const list = useMemories(staff.id, filter, pageSize)
  const [changes, setChanges] = useState<ReadonlyMap<string, Memory>>(new Map())
  const memories = useMemo(() => layOver(list.items, changes), [list.items, changes])
  const put = (changed: Memory, id: string) => {
    const before = memories?.find(memory => memory.id === id)
    setChanges(known => new Map(known).set(id, { ...before, ...changed } as Memory))
  }
  return (
    <>
      <ErrorText error={list.error} />
      {memories === null && list.error === null && <Spinner />}
      {memories?.length === 0 && empty && <p className="quiet">{empty}</p>}
      <ul className="items">
        {memories?.map(memory => (
          <li key={memory.id}>
            <MemoryCard memory={memory} isOpen={memory.id === openId} onChange={put} />
          </li>
        ))}
      </ul>
      {list.hasMore && !filter.query && (
        <button type="button" className="more" onClick={list.loadMore}>
          {t.showMore}
        </button>
      )}
    </>
  )
}

/** The list with what was changed here since it was loaded; what is no longer in it keeps its place if forgotten here. */
function layOver(
  items: readonly Memory[] | null,
  changes: ReadonlyMap<string, Memory>,
): readonly Memory[] | null {
  if (items === null) return null
  const ids = new Set(items.map(({ id }) => id))
  const replaced = new Set([...changes.values()].map(({ id }) => id))
  const own = [...changes].filter(([id]) => !ids.has(id)).map(([, memory]) => memory)
  const kept = items
    .filter(({ id }) => changes.has(id) || !replaced.has(id))
    .map(memory => changes.get(memory.id) ?? memory)
  return [...own.filter(memory => !kept.some(({ id }) => id === memory.id)), ...kept]
}
