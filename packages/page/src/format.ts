/** Numbers, times and words as a reader likes them, in the reader's own locale. */
import { toPlainText } from "@staffstream/react"

const DAY_MS = 86_400_000

/** "2:05 PM" today, "Mon 14:05" this week, else the date. */
export function formatWhen(time: string | null | undefined): string {
  const date = new Date(time ?? "")
  if (Number.isNaN(date.getTime())) return ""
  const age = Date.now() - date.getTime()
  const clock: Intl.DateTimeFormatOptions = { hour: "numeric", minute: "2-digit" }
  if (age < DAY_MS && new Date().getDate() === date.getDate())
    return date.toLocaleTimeString(undefined, clock)
  if (age > 0 && age < 6 * DAY_MS) return date.toLocaleString(undefined, { weekday: "short", ...clock })
  return formatDay(time)
}

export function formatDay(time: string | null | undefined): string {
  const date = new Date(time ?? "")
  if (Number.isNaN(date.getTime())) return ""
  return date.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" })
}

export function formatMs(ms: number | null): string {
  if (ms === null) return "–"
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}

export function formatCount(count: number | null | undefined): string {
  return count == null ? "–" : count.toLocaleString()
}

export function formatCost(dollars: number | null): string {
  if (dollars === null) return "–"
  return dollars < 0.01 ? `$${dollars.toFixed(4)}` : `$${dollars.toFixed(2)}`
}

/** A hue of its own for each thing that has a name or an id. */
export function toHue(text: string): number {
  let hash = 0
  for (const char of text) hash = (hash * 31 + (char.codePointAt(0) ?? 0)) % 360
  return hash
}

/** A memory's words; a message's without the marks of its Markdown. */
export function formatMemory({ kind, text = "" }: { kind?: string; text?: string }): string {
  return kind === "episode" ? toPlainText(text) : text
}
