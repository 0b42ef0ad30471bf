/** Correcting what is remembered. The new text takes the place of the old one, which stays in the history. */
import { useState } from "react"
import type { Memory } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { ErrorText } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"

export function EditMemory({ memory, onDone }: { memory: Memory; onDone: (changed: Memory | null) => void }) {
  const t = useTexts()
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
        aria-label={t.whatIsRemembered}
        onChange={e => setText(e.target.value)}
      />
      <ErrorText error={save.error} />
      <span className="item-buttons">
        <button type="button" onClick={() => onDone(null)}>
          {t.cancel}
        </button>
        <button
          type="submit"
          className="primary"
          disabled={save.isBusy || text.trim() === "" || text === memory.text}
        >
          {t.save}
        </button>
      </span>
    </form>
  )
}
