/** What is remembered: to search, add, correct, pin, forget and bring back, each with where it came from. */
import { type LiveEvent, useMemories, useResource } from "@staffstream/react"
import { type FormEvent, useCallback, useEffect, useMemo, useState } from "react"
import type { Memory } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { Icon } from "../icons.tsx"
import { ErrorText, Spinner } from "../parts.tsx"
import { useAction } from "../useLoad.ts"
import { MemoryItem } from "./MemoryItem.tsx"

const VIEWS = [
  { name: "All", query: {} },
  { name: "Facts", query: { kind: "fact" } },
  { name: "Messages", query: { kind: "episode" } },
  { name: "Forgotten", query: { deleted: true } },
] as const

/** How long one pauses in typing before the search goes out. */
const PAUSE_MS = 200

export function MemoryPanel({ focus }: { focus: string | null }) {
  const staff = useStaff()
  const [query, setQuery] = useState("")
  const [view, setView] = useState<(typeof VIEWS)[number]>(VIEWS[0])
  const asked = useSettled(query.trim(), PAUSE_MS)
  const isSearch = asked !== "" && view.name !== "Forgotten"
  const list = useMemories(staff.id, { ...view.query, ...(isSearch && { query: asked }) })
  // What was just forgotten stays in its place, with its way back, until another list is shown.
  const [changes, setChanges] = useState<ReadonlyMap<string, Memory>>(new Map())
  // biome-ignore lint/correctness/useExhaustiveDependencies: another list begins without changes
  useEffect(() => setChanges(new Map()), [view, asked])
  const shown = useMemo(() => layOver(list.items, changes), [list.items, changes])
  const needle = asked.toLowerCase()
  const isForgotten = view.name === "Forgotten"
  const memories = isForgotten ? shown?.filter(({ text }) => text.toLowerCase().includes(needle)) : shown
  const put = (changed: Memory, id: string) => {
    const before = shown?.find(memory => memory.id === id)
    setChanges(known => new Map(known).set(id, { ...before, ...changed } as Memory))
  }
  return (
    <>
      <label className="search">
        <Icon name="search" />
        <input
          type="search"
          value={query}
          dir="auto"
          placeholder="Search by meaning or by word"
          aria-label="Search the memory"
          onChange={e => setQuery(e.target.value)}
        />
      </label>
      <fieldset className="kinds" aria-label="Which memories">
        {VIEWS.map(known => (
          <button key={known.name} type="button" aria-pressed={view === known} onClick={() => setView(known)}>
            {known.name}
          </button>
        ))}
      </fieldset>
      <AddMemory onAdded={list.reload} />
      <Learning staffId={staff.id} />
      <ErrorText error={list.error} />
      {!memories && list.error === null && <Spinner />}
      {memories?.length === 0 && (
        <p className="quiet">{asked ? "Nothing that fits." : "Nothing is remembered yet."}</p>
      )}
      <ul className="items">
        {memories?.map(memory => (
          <MemoryItem key={memory.id} memory={memory} isOpen={memory.id === focus} onChange={put} />
        ))}
      </ul>
      {list.hasMore && !isSearch && (
        <button type="button" className="more" onClick={list.loadMore}>
          Show more
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

/** What is not learned from yet, and learning from it at once. */
function Learning({ staffId }: { staffId: string }) {
  const api = useApi()
  const isAffected = useCallback(
    ({ type, staff_id }: LiveEvent) =>
      type === "reset" || (staff_id === staffId && /^(run.ended|learning)/.test(type)),
    [staffId],
  )
  const state = useResource((_, signal) => api.getLearning(staffId, signal), [api, staffId], isAffected)
  const start = useAction(() => api.learnNow(staffId))
  const waiting = state.data?.waiting_messages ?? 0
  if (waiting === 0) return null
  return (
    <p className="learning">
      {waiting === 1 ? "1 message is" : `${waiting} messages are`} not learned from yet.
      <button type="button" className="link" disabled={start.isBusy} onClick={() => void start.run()}>
        Learn now
      </button>
      <ErrorText error={start.error} />
    </p>
  )
}

function AddMemory({ onAdded }: { onAdded: () => void }) {
  const api = useApi()
  const staff = useStaff()
  const [text, setText] = useState("")
  const add = useAction(() => api.addMemory(staff.id, text.trim()))
  const submit = async (event: FormEvent) => {
    event.preventDefault()
    if (text.trim() === "" || !(await add.run())) return
    setText("")
    onAdded()
  }
  return (
    <form className="add" onSubmit={event => void submit(event)}>
      <input
        value={text}
        dir="auto"
        placeholder="Add something to remember"
        aria-label="Something to remember"
        onChange={e => setText(e.target.value)}
      />
      <button type="submit" className="primary" disabled={add.isBusy || text.trim() === ""}>
        Add
      </button>
      <ErrorText error={add.error} />
    </form>
  )
}

/** The value once it has rested for a while. */
function useSettled(value: string, pauseMs: number): string {
  const [settled, setSettled] = useState(value)
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), pauseMs)
    return () => clearTimeout(timer)
  }, [value, pauseMs])
  return settled
}
