/**
 * A whole chat: `<StaffChat staffId="…" />`. Its parts take the hook's answer as `chat`, so a host can arrange them
 * otherwise; without the style sheet they have no looks at all.
 */
import type { ReactNode } from "react"
import { useMemo } from "react"
import { getDraft } from "../draft.ts"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import { type StaffStreamingOptions, useStaffStreaming } from "../useStaffStreaming.ts"
import { Announcer } from "./Announcer.tsx"
import { ChatError } from "./ChatError.tsx"
import { Composer } from "./Composer.tsx"
import { MessageList, type MessageListProps } from "./MessageList.tsx"

export interface StaffChatProps
  extends StaffStreamingOptions,
    Pick<MessageListProps, "name" | "renderActions" | "empty"> {
  staffId: string
  labels?: Partial<Labels>
  autoFocus?: boolean
  className?: string
  /** What stands between the list and the composer, e.g. figures of the reply. */
  children?: ReactNode
}

export function StaffChat(props: StaffChatProps) {
  const {
    staffId,
    name,
    labels,
    renderActions,
    empty,
    autoFocus,
    className = "",
    children,
    ...options
  } = props
  const chat = useStaffStreaming(staffId, options)
  const words = useMemo(() => ({ ...DEFAULT_LABELS, ...labels }), [labels])
  const draft = getDraft(`${staffId}/${options.conversationId ?? ""}`)
  return (
    <div className={`ss-chat ${className}`}>
      <MessageList chat={chat} name={name} labels={words} renderActions={renderActions} empty={empty} />
      <ChatError chat={chat} labels={words} />
      {children}
      <Composer chat={chat} labels={words} autoFocus={autoFocus} draft={draft} />
      <Announcer chat={chat} name={name} labels={words} />
    </div>
  )
}
