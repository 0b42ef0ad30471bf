/** One message. Memoised: while a reply grows, only its own row is drawn. */
import { memo, type ReactNode } from "react"
import type { Labels } from "../labels.ts"
import type { ChatMessage } from "../messages.ts"
import { Markdown } from "./Markdown.tsx"
import { Waiting } from "./Waiting.tsx"

export interface MessageItemProps {
  message: ChatMessage
  name: string
  labels: Labels
  /** What to say instead of text that has not come. */
  note: string | null
  since: number | null
  renderActions?: ((message: ChatMessage) => ReactNode) | undefined
}

export const MessageItem = memo(function MessageItem(props: MessageItemProps) {
  const { message, name, labels, note, since, renderActions } = props
  const isUser = message.message_type === "user"
  const isGrowing = message.status === "streaming"
  const remark = describeStatus(message, labels)
  return (
    <li className={`ss-message ss-${message.message_type}`} data-status={message.status}>
      <article aria-label={isUser ? labels.you : name || undefined} aria-busy={isGrowing}>
        {isUser ? (
          <div className="ss-bubble">
            <p dir="auto">{message.content}</p>
          </div>
        ) : (
          <div className="ss-markdown">
            <Markdown text={message.content} isGrowing={isGrowing} />
          </div>
        )}
        {note !== null && <Waiting note={note} since={since} />}
        {remark !== null && <p className="ss-remark">{remark}</p>}
        {renderActions && !isGrowing && message.status !== "sending" && renderActions(message)}
      </article>
    </li>
  )
})

function describeStatus({ status }: ChatMessage, labels: Labels): string | null {
  if (status === "cancelled") return labels.cancelled
  if (status === "interrupted") return labels.interrupted
  return null
}
