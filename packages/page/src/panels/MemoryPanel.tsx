/** What is remembered: to search, add, correct, pin, forget and bring back, each with where it came from. */
import { type FormEvent, useDeferredValue, useEffect, useState } from "react"
import type { Memory } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { Icon } from "../icons.tsx"
import { ErrorText, Spinner } from "../parts.tsx"
import { useAction, useLoad } from "../useLoad.ts"
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
  const api = useApi()
  const staff = useStaff()
  const [query, setQuery] = useState("")
  const [view, setView] = useState<(typeof VIEWS)[number]>(VIEWS[0])
  const asked = useSettled(query.trim(), PAUSE_MS)
  const isSearch = asked !== "" && view.name !== "Forgotten"
  const list = useLoad(
    signal => api.listMemories(staff.id, { ...view.query, ...(isSearch && { query: asked }) }, signal),
    [api, staff.id, asked, view],
  )
  const memories = useDeferredValue(list.data)
  const put = (changed: Memory, id: string) =>
    list.replace(known => known.map(memory => (memory.id === id ? { ...memory, ...changed } : memory)))
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
      <ErrorText error={list.error} />
      {memories === null && list.error === null && <Spinner />}
      {memories?.length === 0 && (
        <p className="quiet">{asked ? "Nothing that fits." : "Nothing is remembered yet."}</p>
      )}
      <ul className="items">
        {memories?.map(memory => (
          <MemoryItem key={memory.id} memory={memory} isOpen={memory.id === focus} onChange={put} />
        ))}
      </ul>
    </>
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
