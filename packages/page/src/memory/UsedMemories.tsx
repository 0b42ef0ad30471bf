/** Under a reply: from how much of what is remembered it was made, and the card of each. Asked for once it is in view. */
import { useReplyContext } from "@staffstream/react"
import { useMemo, useRef, useState } from "react"
import type { ContextItem, ContextRecord } from "../api.ts"
import { useStaff } from "../context.ts"
import { useTexts } from "../texts/texts.ts"
import { useSeen } from "../useSeen.ts"
import { MemoryCardById } from "./MemoryCard.tsx"

export function UsedMemories({ messageId }: { messageId: string }) {
  const t = useTexts()
  const staff = useStaff()
  const place = useRef<HTMLDivElement>(null)
  const isSeen = useSeen(place)
  const context = useReplyContext(staff.id, isSeen ? messageId : null)
  const [isOpen, setOpen] = useState(false)
  const used = useMemo(() => listUsed(context.data as unknown as ContextRecord | null), [context.data])
  const counts = [
    [used.filter(item => item.kind === "fact").length, t.factCount],
    [used.filter(item => item.kind === "episode").length, t.messageCount],
    [used.filter(item => item.kind === "relation").length, t.relationCount],
  ] as const
  const words = counts.filter(([number]) => number > 0).map(([number, write]) => write(number))
  return (
    <div ref={place} className="used">
      {words.length > 0 && (
        <button type="button" className="chip" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {t.from} {words.join(", ")}
        </button>
      )}
      {isOpen && (
        <ul className="items">
          {used.map(item => (
            <li key={item.id}>
              {item.kind === "relation" ? (
                <p className="item" dir="auto">
                  {item.text}
                </p>
              ) : (
                <MemoryCardById id={item.id} isOpen={false} />
              )}
            </li>
          ))}
        </ul>
      )}
    </div>
  )
}

function listUsed(record: ContextRecord | null): (ContextItem & { id: string })[] {
  const sections = record?.sections.filter(({ name }) => name === "memories" || name === "graph") ?? []
  return sections
    .flatMap(({ items }) => items)
    .filter((item): item is ContextItem & { id: string } => item.id !== undefined)
}
