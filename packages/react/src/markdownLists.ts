/** Task lists (`- [x] done`) and footnotes (`[^1]`, and `[^1]: …` as a paragraph of its own). */
import type { MarkdownIt } from "markdown-it"

export function addTasks(parser: MarkdownIt): void {
  parser.core.ruler.after("inline", "tasks", ({ tokens, Token }) => {
    tokens.forEach((token, index) => {
      const first = token.children?.[0]
      const mark = first?.type === "text" ? /^\[([ xX])\] /.exec(first.content) : null
      if (!first || !mark || tokens[index - 2]?.type !== "list_item_open") return
      first.content = first.content.slice(mark[0].length)
      const box = new Token("task", "", 0)
      box.content = mark[1] === " " ? "" : "x"
      token.children?.unshift(box)
    })
  })
}

const NOTE = /^\[\^([^\]\s]{1,40})\]/

export function addNotes(parser: MarkdownIt): void {
  parser.inline.ruler.before("link", "note", (state, silent) => {
    const match = NOTE.exec(state.src.slice(state.pos, state.posMax))
    if (match === null) return false
    if (!silent) state.push("note", "", 0).content = match[1] ?? ""
    state.pos += match[0].length
    return true
  })
  parser.block.ruler.before(
    "reference",
    "note",
    (state, startLine, endLine, silent) => {
      const text = (line: number) =>
        state.src.slice((state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0), state.eMarks[line])
      const match = /^(\[\^[^\]\s]{1,40}\]):\s*(.*)$/.exec(text(startLine))
      if (match === null) return false
      if (silent) return true
      const lines = [`${match[1]} ${match[2]}`]
      let line = startLine + 1
      for (; line < endLine && !state.isEmpty(line) && !/^\[\^[^\]\s]{1,40}\]:/.test(text(line)); line++) {
        lines.push(text(line))
      }
      state.line = line
      const open = state.push("paragraph_open", "p", 1)
      open.map = [startLine, line]
      open.meta = { note: true }
      const inline = state.push("inline", "", 0)
      inline.content = lines.join("\n")
      inline.map = [startLine, line]
      inline.children = []
      state.push("paragraph_close", "p", -1)
      return true
    },
    { alt: ["paragraph"] },
  )
}
