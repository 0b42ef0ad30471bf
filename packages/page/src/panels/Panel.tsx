/** What stands behind the talk, beside it: why an answer came out so, what is remembered, and how it hangs together. */
import { useStaff } from "../context.ts"
import { IconButton } from "../parts.tsx"
import { type PanelName, useRoute } from "../route.ts"
import { useTexts } from "../texts/texts.ts"
import { GraphPanel } from "./GraphPanel.tsx"
import { MemoryPanel } from "./MemoryPanel.tsx"
import { WhyPanel } from "./WhyPanel.tsx"

export function Panel() {
  const [{ panel, focus, conversationId }, go] = useRoute()
  const t = useTexts()
  const staff = useStaff()
  if (panel === null) return null
  const titles: Record<PanelName, string> = {
    why: t.whyThisAnswer,
    memory: t.whatIsKnown(staff.name),
    graph: t.graph,
  }
  const close = () => {
    go({ panel: null, focus: null })
    // The button that was pressed goes with the panel, and focus must not fall to the document.
    document.querySelector<HTMLElement>(".ss-composer textarea")?.focus()
  }
  return (
    <aside className="panel" aria-label={titles[panel]}>
      <header className="panel-head">
        <h2>{titles[panel]}</h2>
        <IconButton icon="close" label={t.closePanel} onClick={close} />
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
