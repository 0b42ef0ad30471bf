/**
 * What a screen reader announces: that an answer has begun, and the whole answer once it is there.
 *
 * The list itself is no live region: it would be read again at every token.
 */
import { useEffect, useRef, useState } from "react"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import { toPlainText } from "../markdown.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"

export function Announcer({
  chat,
  name = "",
  labels = DEFAULT_LABELS,
}: {
  chat: StaffStreaming
  name?: string | undefined
  labels?: Labels
}) {
  const [announcement, setAnnouncement] = useState("")
  const wasStreaming = useRef(false)
  const { isStreaming, messages } = chat
  useEffect(() => {
    if (isStreaming === wasStreaming.current) return
    wasStreaming.current = isStreaming
    const last = messages.at(-1)
    if (isStreaming) setAnnouncement(labels.isAnswering(name))
    else setAnnouncement(last?.message_type === "assistant" ? toPlainText(last.content) : "")
  }, [isStreaming, messages, labels, name])
  return (
    <div className="ss-hidden" role="status">
      {announcement}
    </div>
  )
}
