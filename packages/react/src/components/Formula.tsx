/** A formula: its source text until the page's `math` has drawn it, and where that cannot. */
import { useEffect, useRef } from "react"
import type { MarkdownExtensions } from "./extensions.ts"

interface FormulaProps {
  formula: string
  isBlock: boolean
  math: MarkdownExtensions["math"]
}

export function Formula({ formula, isBlock, math }: FormulaProps) {
  const target = useRef<HTMLSpanElement>(null)
  useEffect(() => {
    const element = target.current
    if (!math || element === null) return
    math(formula, isBlock, element).catch(() => {
      element.textContent = formula
    })
  }, [formula, isBlock, math])
  return (
    // A new formula gets a new element: what `math` has drawn is not React's.
    <span key={formula} ref={target} className={isBlock ? "ss-math ss-math-block" : "ss-math"} dir="ltr">
      {formula}
    </span>
  )
}
