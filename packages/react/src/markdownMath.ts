/** Formulas in Markdown: `$…$` and `\(…\)` in a line, `$$…$$` and `\[…\]` as a block of their own. */
import type { MarkdownIt } from "markdown-it"

export function addMath(parser: MarkdownIt): void {
  parser.inline.ruler.before("escape", "math", (state, silent) => {
    const found = find(state.src.slice(state.pos, state.posMax))
    if (found === null) return false
    if (!silent) {
      const token = state.push(found.isBlock ? "math_block" : "math_inline", "", 0)
      token.content = found.formula
    }
    state.pos += found.length
    return true
  })
}

/** Prices must stay text: a `$` with a space behind it, or one whose partner has a digit behind it, begins no formula. */
const FORMS: [RegExp, boolean][] = [
  [/^\$\$([^$]+)\$\$/, true],
  [/^\\\[([\s\S]+?)\\\]/, true],
  [/^\$(?![\s$])([^$\n]*[^\s$\\])\$(?!\d)/, false],
  [/^\\\(([\s\S]+?)\\\)/, false],
]

function find(text: string): { formula: string; isBlock: boolean; length: number } | null {
  if (text[0] !== "$" && text[0] !== "\\") return null
  for (const [pattern, isBlock] of FORMS) {
    const match = pattern.exec(text)
    if (match?.[1] !== undefined) return { formula: match[1].trim(), isBlock, length: match[0].length }
  }
  return null
}
