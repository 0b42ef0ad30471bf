/** A block of code with its language and a button that copies it; coloured where the page has a highlighter. */
import { type ReactNode, useEffect, useState } from "react"
import type { Labels } from "../labels.ts"
import { copyText } from "./copyText.ts"
import type { MarkdownExtensions } from "./extensions.ts"

interface CodeBlockProps {
  code: string
  language: string
  /** Colours wait until the text has stopped growing. */
  isGrowing: boolean
  labels: Labels
  highlight: MarkdownExtensions["highlight"]
}

export function CodeBlock({ code, language, isGrowing, labels, highlight }: CodeBlockProps) {
  const [isCopied, setCopied] = useState(false)
  const coloured = useColours(code, language, isGrowing ? undefined : highlight)
  const copy = async () => setCopied(await copyText(code))
  return (
    <figure className="ss-code" dir="ltr">
      <figcaption>
        <span>{language || "text"}</span>
        <button type="button" onClick={() => void copy()} onBlur={() => setCopied(false)}>
          {isCopied ? labels.copied : labels.copy}
        </button>
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <pre tabIndex={0}>
        <code>{coloured ?? code}</code>
      </pre>
    </figure>
  )
}

function useColours(
  code: string,
  language: string,
  highlight: MarkdownExtensions["highlight"],
): ReactNode | null {
  const [coloured, setColoured] = useState<{ code: string; nodes: ReactNode } | null>(null)
  useEffect(() => {
    if (!highlight || language === "") return
    let isCurrent = true
    highlight(code, language).then(
      nodes => isCurrent && nodes !== null && setColoured({ code, nodes }),
      // Without its colours the code is still there.
      () => undefined,
    )
    return () => {
      isCurrent = false
    }
  }, [code, language, highlight])
  return coloured?.code === code ? coloured.nodes : null
}
