/** Forgetting a memory: alone, or with the message that it came from. Each choice says what it does. */
import { useEffect, useId, useRef } from "react"
import type { Memory } from "../api.ts"
import { useApi, useStaff } from "../context.ts"
import { ErrorText } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"

interface ForgetMemoryProps {
  memory: Memory
  onForgotten: (withSource: boolean) => void
  onCancel: () => void
}

export function ForgetMemory({ memory, onForgotten, onCancel }: ForgetMemoryProps) {
  const t = useTexts()
  const api = useApi()
  const staff = useStaff()
  const id = useId()
  const first = useRef<HTMLButtonElement>(null)
  const forget = useAction(async (withSource: boolean) => {
    await api.deleteMemory(staff.id, memory.id, withSource)
    onForgotten(withSource)
  })
  const hasSource = memory.source_message_id !== null
  const { run } = forget
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when it was asked for
  useEffect(() => {
    // One that was added by hand has no words to choose about.
    if (hasSource) first.current?.focus()
    else void run(false)
  }, [])
  if (!hasSource) return <ErrorText error={forget.error} />
  const isMessage = memory.kind === "episode"
  return (
    <fieldset className="forget" aria-label={t.forget}>
      <button
        ref={first}
        type="button"
        aria-describedby={`${id}-only`}
        disabled={forget.isBusy}
        onClick={() => void run(false)}
      >
        {isMessage ? t.forgetMessage : t.forgetOnly}
      </button>
      <small id={`${id}-only`}>{t.forgetOnlyNote}</small>
      <button
        type="button"
        className="danger"
        aria-describedby={`${id}-source`}
        disabled={forget.isBusy}
        onClick={() => void run(true)}
      >
        {isMessage ? t.eraseMessage : t.forgetSource}
      </button>
      <small id={`${id}-source`}>{t.forgetSourceNote}</small>
      <button type="button" className="link" onClick={onCancel}>
        {t.keepIt}
      </button>
      <ErrorText error={forget.error} />
    </fieldset>
  )
}
