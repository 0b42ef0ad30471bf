/** A reply's Markdown as React elements, drawn anew only where it grows. See `markdown.ts` for what makes it safe. */
import type { Token } from "markdown-it"
import { createElement, Fragment, memo, type ReactNode, useState } from "react"
import { isSafeLink, type MarkdownBlock, MarkdownReader } from "../markdown.ts"
import { CodeBlock } from "./CodeBlock.tsx"

export interface MarkdownProps {
  text: string
  /** The text is still growing. */
  isGrowing?: boolean
}

export const Markdown = memo(function Markdown({ text, isGrowing = false }: MarkdownProps) {
  const [reader] = useState(() => new MarkdownReader())
  return reader.read(text, isGrowing).map(block => <Block key={block.line} block={block} />)
})

const Block = memo(function Block({ block }: { block: MarkdownBlock }) {
  return toNodes(block.tokens)
})

/** The elements of a flat list of tokens, in which `_open` and `_close` hold what lies between them. */
function toNodes(tokens: readonly Token[]): ReactNode[] {
  const nodes: ReactNode[] = []
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index] as Token
    const end = token.nesting === 1 ? findEnd(tokens, index) : index
    nodes.push(<Fragment key={index}>{toNode(token, tokens.slice(index + 1, end))}</Fragment>)
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

function toNode(token: Token, inside: readonly Token[]): ReactNode {
  switch (token.type) {
    case "inline":
      return toNodes(token.children ?? [])
    case "softbreak":
    case "hardbreak":
      return <br />
    case "code_inline":
      return <code>{token.content}</code>
    case "fence":
    case "code_block":
      return <CodeBlock code={token.content} language={token.info.trim().split(/\s/)[0] ?? ""} />
    case "hr":
      return <hr />
    case "link_open":
      return <SafeLink address={attribute(token, "href")}>{toNodes(inside)}</SafeLink>
    case "image":
      return <SafeLink address={attribute(token, "src")}>{`🖼 ${token.content || "image"}`}</SafeLink>
    case "table_open":
      return <div className="ss-table">{createElement("table", null, toNodes(inside))}</div>
    default:
      return toElement(token, inside)
  }
}

/** Elements whose meaning is their tag alone. Everything else, whatever it is, stays text. */
const PLAIN_TAGS = new Set(
  "p ul ol li blockquote strong em s thead tbody tr th td h1 h2 h3 h4 h5 h6".split(" "),
)
const WITH_DIRECTION = new Set("p li blockquote th td h1 h2 h3 h4 h5 h6".split(" "))

function toElement(token: Token, inside: readonly Token[]): ReactNode {
  if (!PLAIN_TAGS.has(token.tag)) return token.content
  if (token.hidden) return toNodes(inside)
  return createElement(
    // A reply's own headings come below those of the page that it stands in.
    token.tag.replace(/^h([1-6])$/, (_, level) => `h${Math.min(6, Number(level) + 2)}`),
    {
      ...(WITH_DIRECTION.has(token.tag) && { dir: "auto" }),
      ...(token.tag === "ol" && { start: Number(attribute(token, "start") || 1) }),
      ...(/^t[hd]$/.test(token.tag) && { className: alignment(token) }),
    },
    toNodes(inside),
  )
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
