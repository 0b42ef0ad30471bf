/** The words that a memory was learned from, the way to them, and what was believed before, which can be had back. */
import { useMemory } from "@staffstream/react"
import type { Memory, MemoryWhole } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { formatDay } from "../format.ts"
import { ErrorText, IconButton, Spinner } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"
import { useJump } from "../useJump.ts"

interface MemoryOriginProps {
  memory: Memory
  onRestore: (changed: Memory) => void
}

export function MemoryOrigin({ memory, onRestore }: MemoryOriginProps) {
  const t = useTexts()
  const staff = useStaff()
  const details = useMemory(staff.id, memory.id)
  if (details.error) return <ErrorText error={details.error} />
  if (details.data === null) return <Spinner />
  const { source_message: source, quote, valid_from, valid_to } = details.data
  const words = memory.kind === "episode" ? null : (quote ?? source?.content)
  return (
    <div className="origin">
      {words && <blockquote dir="auto">{words}</blockquote>}
      <p className="item-foot">
        {memory.kind === "fact" && (
          <span>{t.trueFrom(formatDay(valid_from), valid_to && formatDay(valid_to))}</span>
        )}
        {source ? <Source source={source} /> : <span>{t.addedByHand}</span>}
      </p>
      <History memory={memory} forms={details.data.history} onRestore={onRestore} />
    </div>
  )
}

function Source({ source }: { source: NonNullable<MemoryWhole["source_message"]> }) {
  const t = useTexts()
  const jump = useJump()
  return (
    <>
      <span>{t.saidOn(formatDay(source.created_at))}</span>
      <button type="button" className="link" onClick={() => jump(source.conversation_id, source.id)}>
        {t.jump}
      </button>
    </>
  )
}

function History({ memory, forms, onRestore }: MemoryOriginProps & { forms: readonly Memory[] }) {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const restore = useAction(async (id: string) => onRestore(await api.restoreMemory(staff.id, id)))
  const others = forms.filter(form => form.id !== memory.id)
  if (others.length === 0) return null
  return (
    <>
      <ul className="history" aria-label={t.otherForms}>
        {others.map(form => (
          <li key={form.id}>
            <span dir="auto">{form.text}</span>{" "}
            <small>{t.fromTo(formatDay(form.valid_from), form.valid_to && formatDay(form.valid_to))}</small>
            <IconButton
              icon="undo"
              label={t.makePresent}
              disabled={restore.isBusy}
              onClick={() => void restore.run(form.id)}
            />
          </li>
        ))}
      </ul>
      <ErrorText error={restore.error} />
    </>
  )
}
