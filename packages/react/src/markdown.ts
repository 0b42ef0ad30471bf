/**
 * Markdown as blocks of markdown-it's tokens, parsed anew only where a growing text can still change.
 *
 * Tokens become React elements, never HTML text, so there is no markup to sanitise: raw HTML stays text, an image
 * becomes a link that nobody's browser follows by itself, and a link keeps its address only where that is harmless.
 * markdown-it was chosen for what hostile text does to it: nesting is bounded and the time grows with the length
 * (100,000 characters of `> > > …` take milliseconds, where others overflow the stack or take many seconds).
 */
import MarkdownIt, { type Token } from "markdown-it"
import { addNotes, addTasks } from "./markdownLists.ts"
import { addMath } from "./markdownMath.ts"
import { closeOpenMarks } from "./openMarks.ts"

const parser = new MarkdownIt({ html: false, linkify: true, breaks: true, typographer: false })
// Only what is written out as an address becomes a link: `setup.py` and `a@b` are words.
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false })
parser.validateLink = isSafeLink
addMath(parser)
addTasks(parser)
addNotes(parser)

/** One block of the text, e.g. a paragraph or a whole list. It keeps its identity until its text changes. */
export interface MarkdownBlock {
  /** Where it begins in the text, in lines. */
  line: number
  tokens: readonly Token[]
}

/** The blocks of a text that grows at its end. */
export class MarkdownReader {
  #text = ""
  #blocks: readonly MarkdownBlock[] = []
  #references: Record<string, unknown> = {}

  /** The blocks of `text`. Cheap when it only grew; `isGrowing` closes the marks that are still open at its end. */
  read(text: string, isGrowing: boolean): readonly MarkdownBlock[] {
    const clean = text.replace(/\r\n?/g, "\n")
    const kept = isGrowing && clean.startsWith(this.#text) ? this.#blocks.slice(0, -1) : []
    if (kept.length === 0) this.#references = {}
    const line = this.#blocks[kept.length]?.line ?? 0
    const start = kept.length === 0 ? 0 : line
    const rest = clean.split("\n").slice(start).join("\n")
    const tokens = parser.parse(isGrowing ? closeOpenMarks(rest) : rest, this.#references)
    this.#blocks = [...kept, ...toBlocks(tokens, start)]
    this.#text = clean
    return this.#blocks
  }
}

/** What a text says without its marks, for an ear or a short line. */
export function toPlainText(text: string): string {
  return parser
    .parse(text, {})
    .map(token => (token.type === "inline" ? plain(token.children ?? []) : token.content))
    .filter(part => part !== "")
    .join("\n")
}

/** Addresses that open a page or a letter, and nothing that runs or shows something by itself. */
export function isSafeLink(address: string): boolean {
  return /^(https?:\/\/|mailto:)/i.test(address.trim())
}

function toBlocks(tokens: readonly Token[], start: number): MarkdownBlock[] {
  const blocks: MarkdownBlock[] = []
  let from = 0
  tokens.forEach((token, index) => {
    if (token.level !== 0 || token.nesting === 1) return
    blocks.push({ line: start + (tokens[from]?.map?.[0] ?? 0), tokens: tokens.slice(from, index + 1) })
    from = index + 1
  })
  return blocks
}

function plain(tokens: readonly Token[]): string {
  return tokens.map(token => (/break$/.test(token.type) ? "\n" : token.content)).join("")
}
