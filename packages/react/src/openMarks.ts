/**
 * Closes what is still open at the end of a growing Markdown text, so that half of a mark is never shown as text.
 *
 * Only the last line's block can have something open. A mark at the very end that may become anything (`*`, `[`, `|`)
 * is left out until the next character tells; what has begun is closed; a link without its end is shown as its text.
 */
import { closeEmphasis } from "./openEmphasis.ts"

/** The text with its open marks closed; in an open fence nothing is a mark. */
export function closeOpenMarks(text: string): string {
  if (hasOpenFence(text)) return text
  const start = text.lastIndexOf("\n\n") + 1
  return text.slice(0, start) + closeTable(closeLastBlock(text.slice(start)))
}

function hasOpenFence(text: string): boolean {
  let fence: string | null = null
  for (const line of text.split("\n")) {
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1]
    if (!mark) continue
    if (fence === null) fence = mark
    else if (mark[0] === fence[0] && mark.length >= fence.length) fence = null
  }
  return fence !== null
}

/** Marks of lists, quotes and tasks before the words of a line. */
const PREFIX = /^(?:\s*(?:>|[-+*] |\d{1,9}[.)] |#{1,6} ))*(?:\s*\[[ xX]\] )?/
/** Nothing but marks, or half of one: a bullet, a rule, a heading, a fence, the first bar of a table, a task. */
const MARKS_ALONE = /^\s*(?:[-+*=_#>~`|:$!\s]*|\d{1,9}[.)]|\[[ xX]?\]?)\s*$/

/** Longer ones are nobody's prose; looking through them at each frame would cost more than a flash. */
const LONGEST_MARKS = 100
const LONGEST_BLOCK = 5_000

function closeLastBlock(text: string): string {
  const at = text.lastIndexOf("\n") + 1
  const line = text.slice(at)
  const isMarks = line.length < LONGEST_MARKS && MARKS_ALONE.test(line.replace(PREFIX, ""))
  // The second line of a table is marks alone too.
  if (!isMarks || /^\s*\|.+\n[\s|:-]*$/.test(text)) return closeLine(text)
  return at === 0 ? "" : closeLine(text.slice(0, at - 1))
}

/** Closes the last line with those before it that it goes on from, up to one that begins a block of its own. */
function closeLine(text: string): string {
  const lines = text.split("\n")
  const first = Math.max(
    0,
    lines.findLastIndex(line => line.startsWith("|") || PREFIX.exec(line)?.[0].trim() !== ""),
  )
  const before = lines
    .slice(0, first)
    .map(line => `${line}\n`)
    .join("")
  const from = before.length + (PREFIX.exec(lines[first] ?? "")?.[0].length ?? 0)
  if (text.length - from > LONGEST_BLOCK) return text
  return text.slice(0, from) + closeEmphasis(closeBrackets(closeVerbatim(text.slice(from))))
}

/** Code and formulas: in them nothing else is a mark. */
function closeVerbatim(text: string): string {
  for (let at = 0; at < text.length; ) {
    const rest = text.slice(at)
    const ticks = /^`+/.exec(rest)?.[0]
    if (ticks) {
      const end = new RegExp(`(?<!\`)${ticks}(?!\`)`).exec(rest.slice(ticks.length))
      if (!end) return closeWith(text, at + ticks.length, "`", ticks.length)
      at += 2 * ticks.length + end.index
    } else if (rest.startsWith("\\")) {
      if (rest.length === 1) return text.slice(0, at)
      const form = { "(": "\\)", "[": "\\]" }[rest[1] ?? ""]
      const end = form ? rest.indexOf(form) : 0
      if (form && end < 0) return rest.length === 2 ? text.slice(0, at) : text.replace(/\\$/, "") + form
      at += end + 2
    } else if (rest.startsWith("$")) {
      const length = closeFormula(rest)
      if (typeof length === "string") return text.slice(0, at) + length
      at += length
    } else at += 1
  }
  return text
}

/** The length of what begins with `$`, or the text in its stead while it has no end. A price is no formula. */
function closeFormula(text: string): number | string {
  const whole = /^(?:\$\$[^$]+\$\$|\$(?![\s$])[^$\n]*[^\s$\\]\$(?!\d))/.exec(text)
  if (whole) return whole[0].length
  if (/^\$\$?$/.test(text)) return ""
  if (text.startsWith("$$")) return closeWith(text, 2, "$", 2)
  const isFormula = /^\$[^\s\d$][^$\n]*\$?$/.test(text)
  return isFormula ? `${text.replace(/\\?\s*\$?$/, "")}$` : 1
}

/** The text with `count` of a sign at its end, of which some may stand there already; nothing if nothing is inside. */
function closeWith(text: string, from: number, sign: string, count: number): string {
  const inside = text.slice(from).replace(new RegExp(`\\${sign}+$`), "")
  return inside.trim() === ""
    ? text.slice(0, from - count)
    : text.slice(0, from) + inside + sign.repeat(count)
}

const VERBATIM = /(`+)[^`]+\1|\$[^$\n]+\$|\\\(.*?\\\)|\\\[.*?\\\]|\\./gs

/** Links, images and footnotes without their end: the words alone. */
function closeBrackets(text: string): string {
  // What stands in code and formulas is as long, and has no brackets.
  const bare = text.replace(VERBATIM, part => " ".repeat(part.length))
  let depth = 0
  for (let at = bare.length - 1; at >= 0; at--) {
    if (bare[at] === "]") depth += 1
    if (bare[at] !== "[") continue
    if (depth > 0) {
      depth -= 1
      const tail = /^\[[^\]]*\](\([^)]*)?$/.exec(bare.slice(at))
      if (!tail || isNote(bare, at)) continue
      const label = text.slice(at + 1, at + bare.slice(at).indexOf("]"))
      return text.slice(0, isImage(bare, at) ? at - 1 : at) + label
    }
    if (isNote(bare, at) || at === bare.length - 1) return text.slice(0, isImage(bare, at) ? at - 1 : at)
    return text.slice(0, isImage(bare, at) ? at - 1 : at) + text.slice(at + 1)
  }
  return text.replace(/(^|\s)!$/, "$1")
}

const isNote = (text: string, at: number) => text[at + 1] === "^"
const isImage = (text: string, at: number) => text[at - 1] === "!"

/** A table's head is no table before its second line is whole: complete that line. */
function closeTable(text: string): string {
  const lines = text.replace(/^\n/, "").split("\n")
  const head = lines[0] ?? ""
  if (lines.length > 2 || !/^\s*\|.*\S/.test(head)) return text
  if (lines.length === 2 && !/^\s*\|?[\s:|-]*$/.test(lines[1] ?? "")) return text
  const cells = Math.max(1, head.replace(/^\s*\||\|\s*$/g, "").split("|").length)
  if (lines.length === 2 && (lines[1] ?? "").split("|").filter(cell => /-/.test(cell)).length >= cells)
    return text
  const lead = text.startsWith("\n") ? "\n" : ""
  return `${lead}${head}\n|${" --- |".repeat(cells)}`
}
