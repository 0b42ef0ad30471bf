/** One message. Memoised: while a reply grows, only its own row is drawn. */
import { memo, type ReactNode } from "react"
import type { Labels } from "../labels.ts"
import type { ChatMessage } from "../messages.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"
import { Markdown } from "./Markdown.tsx"
import { Waiting } from "./Waiting.tsx"

export interface MessageItemProps {
  message: ChatMessage
  name: string
  labels: Labels
  /** What to say instead of text that has not come. */
  note: string | null
  since: number | null
  /** The last message, while no reply is being made. */
  isLast: boolean
  actions: MessageActions
  renderActions?: ((message: ChatMessage) => ReactNode) | undefined
}

export type MessageActions = Pick<StaffStreaming, "regenerate" | "sendMessage">

export const MessageItem = memo(function MessageItem(props: MessageItemProps) {
  const { message, name, labels, note, since, isLast, actions, renderActions } = props
  const isUser = message.message_type === "user"
  const isGrowing = message.status === "streaming"
  const isSaved = !isGrowing && message.status !== "sending"
  return (
    <li className={`ss-message ss-${message.message_type}`} data-status={message.status} data-id={message.id}>
      <article aria-label={isUser ? labels.you : name || undefined} aria-busy={isGrowing}>
        {isUser && (
          <div className="ss-bubble">
            <p dir="auto">{message.content}</p>
          </div>
        )}
        {!isUser && (
          // A browser's translation replaces text nodes, and React would go on writing into the old ones. So a
          // growing reply is not translated, and the finished one is a new element.
          <div
            key={isGrowing ? "growing" : "finished"}
            className="ss-markdown"
            {...(isGrowing && { translate: "no" as const })}
          >
            <Markdown text={message.content} isGrowing={isGrowing} labels={labels} />
          </div>
        )}
        {note !== null && <Waiting note={note} since={since} />}
        <Remark message={message} labels={labels} isLast={isLast} actions={actions} />
        {isSaved && renderActions?.(message)}
      </article>
    </li>
  )
})

/** What is to be said about how a message ended, and what can be done about it. */
function Remark({
  message,
  labels,
  isLast,
  actions,
}: Pick<MessageItemProps, "message" | "labels" | "isLast" | "actions">) {
  const isUnanswered = isLast && message.message_type === "user" && message.status === "complete"
  const isCut = message.stop_reason === "max_tokens"
  const remark = isUnanswered ? labels.unanswered : describeStatus(message, labels)
  if (remark === null) return null
  return (
    <p className="ss-remark">
      {remark}{" "}
      {(isUnanswered || (isLast && message.status === "interrupted")) && (
        <button type="button" className="ss-link" onClick={() => void actions.regenerate(message.id)}>
          {labels.retry}
        </button>
      )}
      {isCut && isLast && (
        <button type="button" className="ss-link" onClick={() => void actions.sendMessage(labels.goOn)}>
          {labels.goOn}
        </button>
      )}
    </p>
  )
}

function describeStatus({ status, stop_reason }: ChatMessage, labels: Labels): string | null {
  if (status === "cancelled") return labels.cancelled
  if (status === "interrupted") return labels.interrupted
  if (stop_reason === "max_tokens") return labels.cutOff
  if (stop_reason === "refusal") return labels.refusal
  return null
}
