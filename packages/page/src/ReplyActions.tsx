/** What one can do with a reply. */
import { type ChatMessage, copyText } from "@staffstream/react"
import { memo, useState } from "react"
import { formatWhen } from "./format.ts"
import { IconButton } from "./parts.tsx"

export interface ReplyActionsProps {
  message: ChatMessage
  isLast: boolean
  onRate: (rating: 1 | -1) => void
  onRegenerate: () => void
  onWhy: () => void
}

export const ReplyActions = memo(function ReplyActions(props: ReplyActionsProps) {
  const { message, isLast, onRate, onRegenerate, onWhy } = props
  if (message.message_type === "user") return null
  const rating = message.feedback?.rating
  return (
    <div className="actions" data-last={isLast}>
      <IconButton icon="why" label="Why this answer" withText onClick={onWhy} />
      <IconButton icon="up" label="Good answer" aria-pressed={rating === 1} onClick={() => onRate(1)} />
      <IconButton icon="down" label="Poor answer" aria-pressed={rating === -1} onClick={() => onRate(-1)} />
      <CopyButton text={message.content} />
      {isLast && <IconButton icon="again" label="Answer again" onClick={onRegenerate} />}
      <small>
        <time dateTime={message.created_at}>{formatWhen(message.created_at)}</time>
        {message.model && ` · ${message.model}`}
      </small>
    </div>
  )
})

function CopyButton({ text }: { text: string }) {
  const [isCopied, setCopied] = useState(false)
  const copy = async () => setCopied(await copyText(text))
  return (
    <IconButton
      icon="copy"
      label={isCopied ? "Copied" : "Copy"}
      onBlur={() => setCopied(false)}
      onClick={() => void copy()}
    />
  )
}
