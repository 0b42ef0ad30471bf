/** Under a message: what was learned from it. Each fact opens its card, and can be taken back at once. */
import { createContext, useContext, useState } from "react"
import type { Memory } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { ErrorText } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"
import { MemoryCardById } from "./MemoryCard.tsx"

/** The facts of this conversation by the message that they were learned from. */
export const LearnedContext = createContext<ReadonlyMap<string, readonly Memory[]>>(new Map())

const SHOWN = 3

export function LearnedNote({ messageId }: { messageId: string }) {
  const t = useTexts()
  const facts = useContext(LearnedContext).get(messageId) ?? []
  const [open, setOpen] = useState<string | null>(null)
  const [undone, setUndone] = useState<readonly Memory[]>([])
  const [isWhole, setWhole] = useState(false)
  const held = facts.filter(({ id }) => !undone.some(other => other.id === id))
  const shown = isWhole ? held : held.slice(0, SHOWN)
  if (held.length + undone.length === 0) return null
  return (
    <div className="learned">
      {shown.length > 0 && <span>{t.learned}</span>}
      {shown.map(fact => (
        <LearnedFact
          key={fact.id}
          fact={fact}
          isOpen={open === fact.id}
          onOpen={() => setOpen(open === fact.id ? null : fact.id)}
          onUndone={() => setUndone([...undone, fact])}
        />
      ))}
      {held.length > shown.length && (
        <button type="button" className="link" onClick={() => setWhole(true)}>
          {t.andMore(held.length - shown.length)}
        </button>
      )}
      {undone.map(fact => (
        <UndoneFact
          key={fact.id}
          fact={fact}
          onRestored={() => setUndone(undone.filter(({ id }) => id !== fact.id))}
        />
      ))}
      {open !== null && <MemoryCardById key={open} id={open} />}
    </div>
  )
}

interface LearnedFactProps {
  fact: Memory
  isOpen: boolean
  onOpen: () => void
  onUndone: () => void
}

function LearnedFact({ fact, isOpen, onOpen, onUndone }: LearnedFactProps) {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const undo = useAction(async () => {
    await api.deleteMemory(staff.id, fact.id)
    onUndone()
  })
  return (
    <span>
      <button type="button" className="link" aria-expanded={isOpen} onClick={onOpen}>
        <bdi>{describeFact(fact)}</bdi>
      </button>
      {" · "}
      <button type="button" className="link" disabled={undo.isBusy} onClick={() => void undo.run()}>
        {t.undo}
      </button>
      <ErrorText error={undo.error} />
    </span>
  )
}

function UndoneFact({ fact, onRestored }: { fact: Memory; onRestored: () => void }) {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const restore = useAction(async () => {
    await api.restoreMemory(staff.id, fact.id)
    onRestored()
  })
  return (
    <span>
      {t.forgotten} <s>{describeFact(fact)}</s>
      {" · "}
      <button
        type="button"
        className="link"
        // The button that was pressed is gone: focus goes on to what undoes it.
        // biome-ignore lint/a11y/noAutofocus: see above
        autoFocus
        disabled={restore.isBusy}
        onClick={() => void restore.run()}
      >
        {t.bringBack}
      </button>
      <ErrorText error={restore.error} />
    </span>
  )
}

/** "Kim lives in Hamburg." as "lives in Hamburg": whose it is, stands above. */
export function describeFact({ text, speaker }: Memory): string {
  const names = [speaker, "The user", "User", "I"].filter(name => name !== "")
  const own = names.find(name => text.startsWith(`${name} `))
  return text.slice(own ? own.length + 1 : 0).replace(/[.。]$/, "")
}
