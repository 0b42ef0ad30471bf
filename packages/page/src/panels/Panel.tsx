/** What stands behind the talk, beside it: why an answer came out so, what is remembered, and how it hangs together. */
import { IconButton } from "../parts.tsx"
import { type PanelName, useRoute } from "../route.ts"
import { GraphPanel } from "./GraphPanel.tsx"
import { MemoryPanel } from "./MemoryPanel.tsx"
import { WhyPanel } from "./WhyPanel.tsx"

const TITLES: Record<PanelName, string> = { why: "Why this answer", memory: "Memory", graph: "Graph" }

export function Panel() {
  const [{ panel, focus, conversationId }, go] = useRoute()
  if (panel === null) return null
  const close = () => {
    go({ panel: null, focus: null })
    // The button that was pressed goes with the panel, and focus must not fall to the document.
    document.querySelector<HTMLElement>(".ss-composer textarea")?.focus()
  }
  return (
    <aside className="panel" aria-label={TITLES[panel]}>
      <header className="panel-head">
        <h2>{TITLES[panel]}</h2>
        <IconButton icon="close" label="Close the panel" onClick={close} />
      </header>
      <div className="panel-body">
        {panel === "why" && focus !== null && (
          <WhyPanel key={focus} messageId={focus} conversationId={conversationId} />
        )}
        {panel === "memory" && <MemoryPanel focus={focus} />}
        {panel === "graph" && <GraphPanel entity={focus} />}
      </div>
    </aside>
  )
}
