/** A reply's Markdown as React elements, drawn again only where it grows. See `markdown.ts` for what makes it safe. */
import type { Token } from "markdown-it"
import {
  type CSSProperties,
  createElement,
  Fragment,
  memo,
  type ReactNode,
  useContext,
  useState,
} from "react"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import { isSafeLink, type MarkdownBlock, MarkdownReader } from "../markdown.ts"
import { CodeBlock } from "./CodeBlock.tsx"
import { MarkdownContext, type MarkdownExtensions } from "./extensions.ts"
import { Formula } from "./Formula.tsx"

export interface MarkdownProps {
  text: string
  /** The text is still growing. */
  isGrowing?: boolean
  labels?: Labels
}

export const Markdown = memo(function Markdown(props: MarkdownProps) {
  const { text, isGrowing = false, labels = DEFAULT_LABELS } = props
  const [reader] = useState(() => new MarkdownReader())
  const blocks = reader.read(text, isGrowing)
  return blocks.map((block, index) => (
    <Block
      key={block.line}
      block={block}
      isGrowing={isGrowing && index === blocks.length - 1}
      labels={labels}
    />
  ))
})

const Block = memo(function Block({ block, isGrowing, labels }: BlockProps) {
  const extensions = useContext(MarkdownContext)
  return toNodes(block.tokens, { ...extensions, isGrowing, labels })
})

interface BlockProps {
  block: MarkdownBlock
  isGrowing: boolean
  labels: Labels
}

interface Drawing extends MarkdownExtensions {
  isGrowing: boolean
  labels: Labels
  /** Within a list or a quote, whose direction all in it has. */
  isInner?: boolean
}

/** The elements of a flat list of tokens, in which `_open` and `_close` hold what lies between them. */
function toNodes(tokens: readonly Token[], drawing: Drawing): ReactNode[] {
  const nodes: ReactNode[] = []
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index] as Token
    const end = token.nesting === 1 ? findEnd(tokens, index) : index
    nodes.push(<Fragment key={index}>{toNode(token, tokens.slice(index + 1, end), drawing)}</Fragment>)
    index = end
  }
  return nodes
}

function findEnd(tokens: readonly Token[], start: number): number {
  let depth = 0
  for (let index = start; index < tokens.length; index++) {
    depth += tokens[index]?.nesting ?? 0
    if (depth === 0) return index
  }
  return tokens.length
}

function toNode(token: Token, inside: readonly Token[], drawing: Drawing): ReactNode {
  const { isGrowing, labels, highlight, math } = drawing
  switch (token.type) {
    case "inline":
      return toNodes(token.children ?? [], drawing)
    case "softbreak":
    case "hardbreak":
      return <br />
    case "code_inline":
      return <code>{token.content}</code>
    case "fence":
    case "code_block":
      return (
        <CodeBlock
          code={token.content}
          language={token.info.trim().split(/\s/)[0] ?? ""}
          {...{ isGrowing, labels, highlight }}
        />
      )
    case "math_inline":
    case "math_block":
      return (
        <Formula
          formula={token.content}
          isBlock={token.type === "math_block"}
          math={isGrowing ? undefined : math}
        />
      )
    case "task":
      return (
        <>
          <input type="checkbox" className="ss-task" disabled checked={token.content === "x"} readOnly />{" "}
        </>
      )
    case "note":
      return <sup>{token.content}</sup>
    case "hr":
      return <hr />
    case "link_open":
      return <SafeLink address={attribute(token, "href")}>{toNodes(inside, drawing)}</SafeLink>
    case "image":
      return <SafeLink address={attribute(token, "src")}>{`🖼 ${token.content || labels.image}`}</SafeLink>
    case "table_open":
      return (
        <div className="ss-table" dir="auto">
          {createElement("table", null, toNodes(inside, drawing))}
        </div>
      )
    default:
      return toElement(token, inside, drawing)
  }
}

/** Elements whose meaning is their tag alone. Everything else, whatever it is, stays text. */
const PLAIN_TAGS = new Set(
  "p ul ol li blockquote strong em s thead tbody tr th td h1 h2 h3 h4 h5 h6".split(" "),
)
const WITH_DIRECTION = new Set("p ul ol blockquote h1 h2 h3 h4 h5 h6".split(" "))
/**
 * A list or quote has one direction, that of its first letters: its marks stand on that side. What is in it has no
 * `dir` of its own, since a browser leaves out such parts when it looks for the first letters.
 */
const HOLDERS = new Set("ul ol blockquote".split(" "))

function toElement(token: Token, inside: readonly Token[], drawing: Drawing): ReactNode {
  if (!PLAIN_TAGS.has(token.tag)) return token.content
  if (token.hidden) return toNodes(inside, drawing)
  const note = token.meta?.note ? "ss-note" : undefined
  return createElement(
    // A reply's own headings come below those of the page that it stands in.
    token.tag.replace(/^h([1-6])$/, (_, level) => `h${Math.min(6, Number(level) + 2)}`),
    {
      ...(!drawing.isInner && WITH_DIRECTION.has(token.tag) && { dir: "auto" }),
      ...(token.tag === "ol" && listNumbers(token, inside)),
      ...(/^t[hd]$/.test(token.tag) && { className: alignment(token) }),
      ...(note && { className: note }),
    },
    toNodes(inside, HOLDERS.has(token.tag) ? { ...drawing, isInner: true } : drawing),
  )
}

/** Where a list begins to count, and how many digits its last number has. */
function listNumbers(list: Token, inside: readonly Token[]): { start: number; style?: CSSProperties } {
  const start = Number(attribute(list, "start") || 1)
  const items = inside.filter(({ type, level }) => type === "list_item_open" && level === list.level + 1)
  const digits = String(start + items.length - 1).length
  return { start, ...(digits > 1 && { style: { "--ss-digits": digits } as CSSProperties }) }
}

function SafeLink({ address, children }: { address: string; children: ReactNode }) {
  if (!isSafeLink(address)) return children
  return (
    <a href={address} title={address} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  )
}

function attribute(token: Token, name: string): string {
  return String(token.attrs?.find(([known]) => known === name)?.[1] ?? "")
}

function alignment(token: Token): string | undefined {
  const side = /text-align:\s*(left|center|right)/.exec(attribute(token, "style"))?.[1]
  return side && `ss-${side}`
}
