/** Colours for code and drawn formulas, each loaded when the first message needs it. */
import type { MarkdownExtensions } from "@staffstream/react"
import { createElement, type ReactNode } from "react"

interface Node {
  scope?: string
  children: (Node | string)[]
}

/** highlight.js has many scopes; the style sheet has six colours. */
const COLOURS: [RegExp, string][] = [
  [/^(keyword|built_in|literal|selector-tag|meta)/, "keyword"],
  [/^(string|regexp|char)/, "string"],
  [/^number/, "number"],
  [/^(comment|quote)/, "comment"],
  [/^(title|section|type|name)/, "title"],
  [/^(attr|attribute|property|variable|params)/, "attr"],
]

export const extensions: MarkdownExtensions = {
  async highlight(code, language) {
    const { default: highlighter } = await import("highlight.js/lib/common")
    if (!highlighter.getLanguage(language)) return null
    const { _emitter } = highlighter.highlight(code, { language, ignoreIllegals: true })
    return toNodes((_emitter as unknown as { rootNode: Node }).rootNode.children)
  },
  async math(formula, isBlock, target) {
    const { default: katex } = await import("katex")
    // MathML needs no fonts and no inline styles, which the page's security policy forbids.
    katex.render(formula, target, { displayMode: isBlock, output: "mathml", throwOnError: true })
  },
}

function toNodes(children: Node["children"]): ReactNode[] {
  return children.map((child, index) => {
    if (typeof child === "string") return child
    const colour = COLOURS.find(([pattern]) => pattern.test(child.scope ?? ""))?.[1]
    return createElement(
      "span",
      { key: index, ...(colour && { className: `ss-code-${colour}` }) },
      ...toNodes(child.children),
    )
  })
}
