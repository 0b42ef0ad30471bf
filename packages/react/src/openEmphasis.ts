/** Emphasis that is open at the end of a line of Markdown, closed by the rules of CommonMark (6.2) as far as they matter. */

interface Opener {
  sign: string
  count: number
}

const SPACE = /^\s?$/
const PUNCTUATION = /^[\p{P}\p{S}]$/u

/** The text with `*`, `_` and `~~` closed; a run of them at its very end that closes nothing is left out. */
export function closeEmphasis(text: string): string {
  const openers: Opener[] = []
  let end = text.length
  for (const { 0: run, index } of text.matchAll(
    /`+[^`]*`+|\$[^$\n]+\$|\\\(.*?\\\)|\\\[.*?\\\]|\\.|\]\([^)\s]*\)|https?:\S+|\*+|_+|~+/gs,
  )) {
    const sign = run[0] ?? ""
    if (!"*_~".includes(sign)) continue
    const isLast = index + run.length === text.length
    const { canOpen, canClose } = judge(text, index, run)
    const left = canClose || isLast ? close(openers, sign, run.length, isLast) : run.length
    if (left === 0) continue
    if (isLast) end -= left
    else if (canOpen && (sign !== "~" || left >= 2)) openers.push({ sign, count: sign === "~" ? 2 : left })
  }
  if (openers.length === 0) return text.slice(0, end)
  const marks = openers.reverse().map(({ sign, count }) => sign.repeat(count))
  return text.slice(0, end).trimEnd() + marks.join("")
}

/** Takes as many signs from the openers as the run closes; answers how many of the run are left. */
function close(openers: Opener[], sign: string, length: number, isLast: boolean): number {
  let left = length
  while (left > 0) {
    const at = openers.findLastIndex(opener => opener.sign === sign)
    const opener = openers[at]
    if (!opener) return left
    const used = opener.count >= 2 && left >= 2 ? 2 : 1
    // Half of a closing `**` or `~~`.
    if (used < opener.count && isLast && opener.count === 2) return left
    if (used === 1 && sign === "~") return left
    openers.length = at + 1
    opener.count -= used
    left -= used
    if (opener.count === 0) openers.pop()
  }
  return 0
}

function judge(text: string, index: number, run: string): { canOpen: boolean; canClose: boolean } {
  const before = text[index - 1] ?? ""
  const after = text[index + run.length] ?? ""
  const isLeft =
    !SPACE.test(after) && (!PUNCTUATION.test(after) || SPACE.test(before) || PUNCTUATION.test(before))
  const isRight =
    !SPACE.test(before) && (!PUNCTUATION.test(before) || SPACE.test(after) || PUNCTUATION.test(after))
  if (run[0] !== "_") return { canOpen: isLeft, canClose: isRight }
  return {
    canOpen: isLeft && (!isRight || PUNCTUATION.test(before)),
    canClose: isRight && (!isLeft || PUNCTUATION.test(after)),
  }
}
