/** What a page can add to Markdown. Each is loaded by the page when it is first needed, so that the package stays small. */
import { createContext, type ReactNode } from "react"

export interface MarkdownExtensions {
  /** The code as coloured spans; null for a language that it does not know. */
  highlight?: (code: string, language: string) => Promise<ReactNode | null>
  /** Draws a formula into an element; raises for one that it cannot read. */
  math?: (formula: string, isBlock: boolean, target: HTMLElement) => Promise<void>
}

/** Keep the value the same object, or every message is drawn again. */
export const MarkdownContext = createContext<MarkdownExtensions>({})
