/**
 * Closes what is still open at the end of a growing Markdown text, so that half of a mark is never shown as text.
 * Only the last paragraph can have something open.
 */

/** The text with its open marks closed; in an open fence nothing is a mark. */
export function closeOpenMarks(text: string): string {
  if (hasOpenFence(text)) return text
  const start = text.lastIndexOf("\n\n") + 1
  const [before, last] = [text.slice(0, start), text.slice(start)]
  return before + closeTable(closeInline(last))
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

function closeInline(text: string): string {
  if (count(text, /`/g) % 2 === 1) return `${text}\``
  if (count(text, /\$\$/g) % 2 === 1) return `${text}$$`
  // A link or image that has no end yet is shown as its text.
  let shown = text.replace(/!?\[([^\]\n]*)\](\([^)\n]*)?$/, (all, label, address) =>
    address === undefined && !all.startsWith("!") && !isLinkStart(text) ? all : label,
  )
  shown = shown.replace(/!?\[([^\]\n]*)$/, "$1")
  for (const mark of ["**", "~~", "__"]) {
    if (shown.endsWith(mark) && count(shown, toPattern(mark)) % 2 === 1) shown = shown.slice(0, -mark.length)
    const opens = new RegExp(`${toPattern(mark).source}[^\\s${mark[0]}][^${mark[0]}]*$`)
    if (opens.test(shown) && count(shown, toPattern(mark)) % 2 === 1) shown = closeBeforeSpace(shown, mark)
  }
  const bare = shown.replaceAll("**", "")
  if (/(^|\s)\*$/.test(shown) && !/(^|\n)\s*\*$/.test(shown)) return shown.slice(0, -1)
  if (
    /(^|[\s(])\*[^\s*][^*\n]*$/.test(bare) &&
    count(bare, /(^|[\s(])\*(?=[^\s*])/g) > count(bare, /[^\s*]\*(?!\*)/g)
  )
    return closeBeforeSpace(shown, "*")
  return shown
}

/** `[x]` may be text in brackets: it counts as half a link only while nothing follows it. */
function isLinkStart(text: string): boolean {
  return /\]$/.test(text) && !/\[( |x|X|\^[^\]]*)\]$/.test(text)
}

function closeBeforeSpace(text: string, mark: string): string {
  return text.trimEnd() + mark
}

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

function toPattern(mark: string): RegExp {
  return new RegExp(mark.replace(/[*~_]/g, "\\$&"), "g")
}

function count(text: string, pattern: RegExp): number {
  return text.match(pattern)?.length ?? 0
}
