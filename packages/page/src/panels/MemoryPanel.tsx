/** What is remembered: facts by person and topic, messages apart from them, and what was forgotten; searched, added to. */
import { type MemoryFilter, useMemoryOverview } from "@staffstream/react"
import { type FormEvent, useEffect, useState } from "react"
import { useApi, useStaff } from "../context.ts"
import { Icon } from "../icons.tsx"
import { FactGroups } from "../memory/FactGroups.tsx"
import { LearningNote } from "../memory/LearningNote.tsx"
import { MemoryList } from "../memory/MemoryList.tsx"
import { ErrorText, Spinner } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"

type View = "facts" | "messages" | "forgotten"

const FILTERS: Record<View, MemoryFilter> = {
  facts: { kind: "fact" },
  messages: { kind: "episode" },
  forgotten: { deleted: true },
}

/** How long one pauses in typing before the search goes out. */
const PAUSE_MS = 200

export function MemoryPanel({ focus }: { focus: string | null }) {
  const t = useTexts()
  const staff = useStaff()
  const [query, setQuery] = useState("")
  const [view, setView] = useState<View>("facts")
  const asked = useSettled(query.trim(), PAUSE_MS)
  const overview = useMemoryOverview(staff.id)
  const views = [
    ["facts", t.facts],
    ["messages", t.messages],
    ["forgotten", t.forgottenOnes],
  ] as const
  const empty = asked ? t.nothingFits : view === "forgotten" ? t.nothingForgotten : t.nothingYet
  return (
    <>
      <label className="search">
        <Icon name="search" />
        <input
          type="search"
          value={query}
          dir="auto"
          placeholder={t.searchHint}
          aria-label={t.searchMemory}
          onChange={e => setQuery(e.target.value)}
        />
      </label>
      <fieldset className="kinds" aria-label={t.whichMemories}>
        {views.map(([name, label]) => (
          <button key={name} type="button" aria-pressed={view === name} onClick={() => setView(name)}>
            {label} {overview.data && <span className="quiet">{overview.data[name].toLocaleString()}</span>}
          </button>
        ))}
      </fieldset>
      <AddMemory />
      <LearningNote staffId={staff.id} />
      <ErrorText error={overview.error} />
      {view === "facts" && asked === "" ? (
        overview.data ? (
          <FactGroups overview={overview.data} openId={focus} />
        ) : (
          !overview.error && <Spinner />
        )
      ) : (
        <MemoryList
          key={`${view} ${asked}`}
          filter={{ ...FILTERS[view], ...(asked && { query: asked }) }}
          openId={focus}
          empty={empty}
        />
      )}
    </>
  )
}

function AddMemory() {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const [text, setText] = useState("")
  const add = useAction(() => api.addMemory(staff.id, text.trim()))
  const submit = async (event: FormEvent) => {
    event.preventDefault()
    if (text.trim() !== "" && (await add.run())) setText("")
  }
  return (
    <form className="add" onSubmit={event => void submit(event)}>
      <input
        value={text}
        dir="auto"
        placeholder={t.toRememberHint}
        aria-label={t.toRemember}
        onChange={e => setText(e.target.value)}
      />
      <button type="submit" className="primary" disabled={add.isBusy || text.trim() === ""}>
        {t.add}
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
