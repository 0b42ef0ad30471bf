/** The figures of the reply that is being made, or of the last one: how soon, how fast, how much. */
import type { StaffStreaming } from "@staffstream/react"
import { useEffect, useState } from "react"
import { useServer } from "./context.ts"
import { formatCost, formatCount, formatMs } from "./format.ts"
import { estimateCost } from "./prices.ts"

export function Figures({ chat, model }: { chat: StaffStreaming; model: string | null }) {
  const { models, me } = useServer()
  const { progress, messages, isStreaming } = chat
  const now = useNow(isStreaming)
  if (progress === null) return <p className="figures" />
  const reply = messages.findLast(message => message.id === progress.runId)
  const usage = isStreaming ? null : reply?.usage
  const { firstTokenMs, totalMs, sentAt } = progress
  const lastedMs = (totalMs ?? now - sentAt) - (firstTokenMs ?? 0)
  const tokens = usage?.output_tokens ?? progress.tokens
  const isFast = firstTokenMs !== null && lastedMs > 200
  return (
    <dl className="figures" aria-label="Figures of the last reply">
      <Figure name="First token" value={formatMs(firstTokenMs)} />
      <Figure name="Tokens" value={formatCount(tokens)} />
      <Figure
        isExtra
        name="Tokens/s"
        value={isFast ? formatCount(Math.round((tokens / lastedMs) * 1000)) : "–"}
      />
      <Figure isExtra name="Prompt" value={formatCount(promptTokens(usage))} />
      <Figure
        name="Cost"
        value={formatCost(estimateCost(models, reply?.model ?? model ?? me?.model, usage))}
      />
    </dl>
  )
}

function Figure({ name, value, isExtra }: { name: string; value: string; isExtra?: boolean }) {
  return (
    <div className={isExtra ? "is-extra" : undefined}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  )
}

type Usage = NonNullable<StaffStreaming["messages"][number]["usage"]>

function promptTokens(usage: Usage | null | undefined): number | null {
  if (!usage) return null
  return (
    (usage.input_tokens ?? 0) +
    (usage.cache_read_input_tokens ?? 0) +
    (usage.cache_creation_input_tokens ?? 0)
  )
}

/** The time, four times a second while it matters. */
function useNow(isRunning: boolean): number {
  const [now, setNow] = useState(() => Date.now())
  useEffect(() => {
    if (!isRunning) return
    const timer = setInterval(() => setNow(Date.now()), 250)
    return () => clearInterval(timer)
  }, [isRunning])
  return now
}
