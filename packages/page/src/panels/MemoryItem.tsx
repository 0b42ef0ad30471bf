/** One memory, with what one can do to it. Nothing is ever overwritten: a change has a history, a deletion an undo. */
import { useState } from "react"
import type { Memory, MemoryDetails } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { formatDay } from "../format.ts"
import { ErrorText, IconButton, Spinner } from "../parts.tsx"
import { useRoute } from "../route.ts"
import { useAction, useLoad } from "../useLoad.ts"
import { Score } from "./Score.tsx"

export interface MemoryItemProps {
  memory: Memory
  isOpen: boolean
  /** Puts what a memory has become in the place of the one with this id. */
  onChange: (changed: Memory, id: string) => void
}

export function MemoryItem({ memory, isOpen, onChange }: MemoryItemProps) {
  const api = useApi()
  const staff = useStaff()
  const [isEdited, setEdited] = useState(false)
  const [isShown, setShown] = useState(isOpen)
  const [isForgottenHere, setForgottenHere] = useState(false)
  const pin = useAction(async () => {
    onChange(await api.changeMemory(staff.id, memory.id, { pinned: !memory.pinned }), memory.id)
  })
  const erase = useAction(async () => {
    await api.deleteMemory(staff.id, memory.id)
    setForgottenHere(true)
    onChange({ ...memory, deleted_at: new Date().toISOString() }, memory.id)
  })
  const restore = useAction(async () => {
    onChange({ ...(await api.restoreMemory(staff.id, memory.id)), deleted_at: null }, memory.id)
  })
  const error = pin.error ?? erase.error ?? restore.error
  if (memory.deleted_at) {
    return (
      <li className="item is-deleted">
        <p dir="auto">{memory.text}</p>
        <p className="item-foot">
          Forgotten, and not learned again.
          <IconButton
            icon="undo"
            label="Bring it back"
            // The button that was pressed is gone: focus goes on to what undoes it.
            autoFocus={isForgottenHere}
            disabled={restore.isBusy}
            onClick={() => void restore.run()}
          />
        </p>
        <ErrorText error={error} />
      </li>
    )
  }
  return (
    <li className="item" data-pinned={memory.pinned}>
      {isEdited ? (
        <EditMemory
          memory={memory}
          onDone={changed => {
            setEdited(false)
            if (changed) onChange(changed, memory.id)
          }}
        />
      ) : (
        <p dir="auto">{memory.text}</p>
      )}
      <p className="item-foot">
        {memory.score != null && <Score score={memory.score} />}
        <span className="chip">
          {memory.category || (memory.kind === "episode" ? "message" : memory.kind)}
        </span>
        {memory.valid_to && <span className="chip">until {formatDay(memory.valid_to)}</span>}
        <time dateTime={memory.occurred_at}>{formatDay(memory.occurred_at)}</time>
        <span className="item-buttons">
          <IconButton
            icon="pin"
            label={memory.pinned ? "Unpin" : "Pin"}
            aria-pressed={memory.pinned === true}
            disabled={pin.isBusy}
            onClick={() => void pin.run()}
          />
          {memory.kind !== "episode" && (
            <IconButton icon="edit" label="Edit" onClick={() => setEdited(true)} />
          )}
          <IconButton icon="trash" label="Forget" disabled={erase.isBusy} onClick={() => void erase.run()} />
          <IconButton
            icon="why"
            label="Where it comes from"
            aria-expanded={isShown}
            onClick={() => setShown(!isShown)}
          />
        </span>
      </p>
      <ErrorText error={error} />
      {isShown && <Origin memory={memory} onChange={onChange} />}
    </li>
  )
}

function EditMemory({ memory, onDone }: { memory: Memory; onDone: (changed: Memory | null) => void }) {
  const api = useApi()
  const staff = useStaff()
  const [text, setText] = useState(memory.text)
  const save = useAction(async () =>
    onDone(await api.changeMemory(staff.id, memory.id, { text: text.trim() })),
  )
  return (
    <form
      className="edit"
      onSubmit={event => {
        event.preventDefault()
        void save.run()
      }}
    >
      <textarea
        // biome-ignore lint/a11y/noAutofocus: one asked to edit this very text
        autoFocus
        rows={3}
        dir="auto"
        value={text}
        aria-label="What is remembered"
        onChange={e => setText(e.target.value)}
      />
      <ErrorText error={save.error} />
      <span className="item-buttons">
        <button type="button" onClick={() => onDone(null)}>
          Cancel
        </button>
        <button
          type="submit"
          className="primary"
          disabled={save.isBusy || text.trim() === "" || text === memory.text}
        >
          Save
        </button>
      </span>
    </form>
  )
}

/** The message that a memory was learned from, and what was believed before: each form of it can be had back. */
function Origin({ memory, onChange }: Pick<MemoryItemProps, "memory" | "onChange">) {
  const api = useApi()
  const staff = useStaff()
  const details = useLoad(signal => api.getMemory(staff.id, memory.id, signal), [api, staff.id, memory.id])
  const restore = useAction(async (id: string) => onChange(await api.restoreMemory(staff.id, id), memory.id))
  const eraseSource = useAction(async () => {
    await api.deleteMemory(staff.id, memory.id, true)
    onChange({ ...memory, deleted_at: new Date().toISOString() }, memory.id)
  })
  if (details.error) return <ErrorText error={details.error} />
  if (details.data === null) return <Spinner />
  const { source_message: source, quote, history = [] } = details.data
  const others = history.filter(form => form.id !== memory.id)
  const words = quote ?? source?.content
  return (
    <div className="origin">
      {words && <blockquote dir="auto">{words}</blockquote>}
      <p className="item-foot">
        {details.data.valid_from && <span>True {describeTime(details.data)}.</span>}
        {source ? <SourceLink source={source} /> : <span>Added by hand.</span>}
        {source && memory.kind !== "episode" && (
          <button
            type="button"
            className="link"
            disabled={eraseSource.isBusy}
            onClick={() => void eraseSource.run()}
          >
            Forget it and erase this message
          </button>
        )}
      </p>
      {others.length > 0 && (
        <ul className="history" aria-label="Other forms">
          {others.map(form => (
            <li key={form.id}>
              <span dir="auto">{form.text}</span> <small>{describeTime(form)}</small>
              <IconButton
                icon="undo"
                label="Make this the present form"
                disabled={restore.isBusy}
                onClick={() => void restore.run(form.id)}
              />
            </li>
          ))}
        </ul>
      )}
      <ErrorText error={restore.error ?? eraseSource.error} />
    </div>
  )
}

function SourceLink({ source }: { source: NonNullable<MemoryDetails["source_message"]> }) {
  const [, go] = useRoute()
  const open = () => go({ conversationId: source.conversation_id, panel: null, focus: null })
  return (
    <button type="button" className="link" onClick={open}>
      Said on {formatDay(source.created_at)}
    </button>
  )
}

function describeTime({ valid_from, valid_to }: Memory): string {
  const from = `from ${formatDay(valid_from)}`
  return valid_to ? `${from} to ${formatDay(valid_to)}` : from
}
