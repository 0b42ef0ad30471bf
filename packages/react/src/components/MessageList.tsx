/** The conversation as a list that follows its end, with earlier messages at its top. */
import { type ReactNode, type RefObject, useEffect, useRef } from "react"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import type { ChatMessage } from "../messages.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"
import { MessageItem } from "./MessageItem.tsx"
import { useBrowserLayoutEffect } from "./useBrowserLayoutEffect.ts"
import { useFollowScroll } from "./useFollowScroll.ts"

export interface MessageListProps {
  chat: StaffStreaming
  /** What the staff member is called. */
  name?: string | undefined
  labels?: Labels
  /** What stands below a finished message, e.g. buttons. Keep it the same function, or every row is drawn anew. */
  renderActions?: ((message: ChatMessage) => ReactNode) | undefined
  /** What stands in an empty conversation. */
  empty?: ReactNode
}

export function MessageList({
  chat,
  name = "",
  labels = DEFAULT_LABELS,
  renderActions,
  empty,
}: MessageListProps) {
  const list = useRef<HTMLElement>(null)
  const { isFollowing, follow } = useFollowScroll(list)
  const { messages, status, hasOlder, progress } = chat
  const lastQuestion = messages.findLast(message => message.message_type === "user")
  const loadEarlier = useEarlier(list, chat)
  // biome-ignore lint/correctness/useExhaustiveDependencies: who asks wants to see the answer
  useEffect(follow, [follow, lastQuestion?.key])
  return (
    <div className="ss-messages">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <section ref={list} className="ss-scroll" aria-label={labels.conversation} tabIndex={0}>
        <div className="ss-column">
          {hasOlder && (
            <button type="button" className="ss-earlier" onClick={loadEarlier}>
              {labels.earlier}
            </button>
          )}
          {messages.length === 0 && status !== "loading" && (
            <div className="ss-empty">{empty ?? labels.empty}</div>
          )}
          <ol className="ss-list">
            {messages.map(message => (
              <MessageItem
                key={message.key}
                message={message}
                name={name}
                labels={labels}
                note={message.status === "streaming" ? describeWait(chat, labels) : null}
                since={message.status === "streaming" ? (progress?.sentAt ?? null) : null}
                renderActions={renderActions}
              />
            ))}
          </ol>
        </div>
      </section>
      {!isFollowing && (
        <button
          type="button"
          className="ss-latest"
          onClick={follow}
          aria-label={labels.latest}
          title={labels.latest}
        >
          ↓
        </button>
      )}
    </div>
  )
}

/** What is going on while nothing can be read; null while text comes. */
function describeWait({ status, progress }: StaffStreaming, labels: Labels): string | null {
  if (status === "reconnecting") return labels.reconnecting
  if (status !== "waiting") return null
  if (!progress?.runId) return labels.waiting
  return progress.phase === "building" ? labels.building : labels.thinking
}

/** Loads earlier messages, and keeps what one reads in its place when they come above it. */
function useEarlier(
  list: RefObject<HTMLElement | null>,
  { messages, loadOlder }: StaffStreaming,
): () => void {
  const heightBefore = useRef<number | null>(null)
  const firstKey = messages[0]?.key
  // Another first message is what moves the rest.
  useBrowserLayoutEffect(() => {
    if (list.current === null || heightBefore.current === null) return
    list.current.scrollTop += list.current.scrollHeight - heightBefore.current
    heightBefore.current = null
  }, [list, firstKey])
  return () => {
    heightBefore.current = list.current?.scrollHeight ?? null
    void loadOlder()
  }
}
