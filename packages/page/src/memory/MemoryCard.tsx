/**
 * One memory, wherever it is shown, with what one can do to it. Nothing is ever overwritten: a change has a history,
 * and forgetting has an undo, unless one asks for the words that it came from to be erased too.
 */
import { useMemory } from "@staffstream/react"
import { useState } from "react"
import type { Memory } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { formatDay, formatMemory } from "../format.ts"
import { Score } from "../panels/Score.tsx"
import { ErrorText, IconButton, Spinner } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"
import { EditMemory } from "./EditMemory.tsx"
import { ForgetMemory } from "./ForgetMemory.tsx"
import { MemoryOrigin } from "./MemoryOrigin.tsx"

export interface MemoryCardProps {
  memory: Memory
  /** Shows at once where it comes from. */
  isOpen?: boolean
  /** Puts what a memory has become in the place of the one with this id. */
  onChange: (changed: Memory, id: string) => void
}

export function MemoryCard({ memory, isOpen = false, onChange }: MemoryCardProps) {
  const t = useTexts()
  const [task, setTask] = useState<"edit" | "forget" | null>(null)
  const [isShown, setShown] = useState(isOpen)
  const [isForgottenHere, setForgottenHere] = useState(false)
  const [isErased, setErased] = useState(false)
  const change = (changed: Memory) => {
    setTask(null)
    onChange(changed, memory.id)
  }
  if (isErased) return <p className="item quiet">{t.erased}</p>
  if (memory.deleted_at) {
    return <Forgotten memory={memory} isForgottenHere={isForgottenHere} onChange={change} />
  }
  return (
    <article className="item" data-pinned={memory.pinned}>
      {task === "edit" ? (
        <EditMemory memory={memory} onDone={changed => (changed ? change(changed) : setTask(null))} />
      ) : (
        <p dir="auto">{formatMemory(memory)}</p>
      )}
      <div className="item-foot">
        {memory.score != null && <Score score={memory.score} />}
        <span className="chip">{memory.kind === "episode" ? t.message : (memory.category ?? t.fact)}</span>
        {memory.valid_to && <span className="chip">{t.until(formatDay(memory.valid_to))}</span>}
        <time dateTime={memory.occurred_at}>{formatDay(memory.occurred_at)}</time>
        <Buttons
          memory={memory}
          isShown={isShown}
          onShow={() => setShown(!isShown)}
          onTask={setTask}
          onChange={change}
        />
      </div>
      {task === "forget" && (
        <ForgetMemory
          memory={memory}
          onCancel={() => setTask(null)}
          onForgotten={withSource => {
            setErased(withSource)
            setForgottenHere(true)
            change({ ...memory, deleted_at: new Date().toISOString() })
          }}
        />
      )}
      {isShown && <MemoryOrigin memory={memory} onRestore={change} />}
    </article>
  )
}

interface ButtonsProps {
  memory: Memory
  isShown: boolean
  onShow: () => void
  onTask: (task: "edit" | "forget") => void
  onChange: (changed: Memory) => void
}

function Buttons({ memory, isShown, onShow, onTask, onChange }: ButtonsProps) {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const pin = useAction(async () => {
    onChange(await api.changeMemory(staff.id, memory.id, { pinned: !memory.pinned }))
  })
  return (
    <>
      <span className="item-buttons">
        <IconButton
          icon="pin"
          label={memory.pinned ? t.unpin : t.pin}
          aria-pressed={memory.pinned}
          disabled={pin.isBusy}
          onClick={() => void pin.run()}
        />
        {memory.kind === "fact" && <IconButton icon="edit" label={t.edit} onClick={() => onTask("edit")} />}
        <IconButton icon="trash" label={t.forget} onClick={() => onTask("forget")} />
        <IconButton icon="why" label={t.origin} aria-expanded={isShown} onClick={onShow} />
      </span>
      <ErrorText error={pin.error} />
    </>
  )
}

interface ForgottenProps {
  memory: Memory
  isForgottenHere: boolean
  onChange: (changed: Memory) => void
}

function Forgotten({ memory, isForgottenHere, onChange }: ForgottenProps) {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const restore = useAction(async () => {
    onChange({ ...(await api.restoreMemory(staff.id, memory.id)), deleted_at: null })
  })
  return (
    <article className="item is-deleted">
      <p dir="auto">{formatMemory(memory)}</p>
      <p className="item-foot">
        {t.isForgotten}
        <IconButton
          icon="undo"
          label={t.bringBack}
          // The button that was pressed is gone: focus goes on to what undoes it.
          autoFocus={isForgottenHere}
          disabled={restore.isBusy}
          onClick={() => void restore.run()}
        />
      </p>
      <ErrorText error={restore.error} />
    </article>
  )
}

/** The card of a memory of which only the id is known. */
export function MemoryCardById({ id, isOpen = true }: { id: string; isOpen?: boolean }) {
  const t = useTexts()
  const staff = useStaff()
  const memory = useMemory(staff.id, id)
  const [changed, setChanged] = useState<Memory | null>(null)
  if (memory.data === null && memory.error === null) return <Spinner />
  // Erased for good, by its message.
  if (memory.data === null || memory.error?.status === 404) return <p className="quiet">{t.notRecalled}</p>
  const shown = changed?.id === id || changed === null ? memory.data : changed
  return <MemoryCard memory={shown} isOpen={isOpen} onChange={setChanged} />
}
