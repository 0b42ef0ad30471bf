/** A block of code with its language and a button that copies it, where the browser lets a page copy. */
import { useState } from "react"

export function CodeBlock({ code, language }: { code: string; language: string }) {
  const [isCopied, setCopied] = useState(false)
  const copy = async () => {
    await navigator.clipboard.writeText(code)
    setCopied(true)
  }
  const canCopy = typeof navigator !== "undefined" && navigator.clipboard !== undefined
  return (
    <figure className="ss-code" dir="ltr">
      <figcaption>
        <span>{language || "text"}</span>
        {canCopy && (
          <button type="button" onClick={() => void copy()} onBlur={() => setCopied(false)}>
            {isCopied ? "Copied" : "Copy"}
          </button>
        )}
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <pre tabIndex={0}>
        <code>{code}</code>
      </pre>
    </figure>
  )
}
