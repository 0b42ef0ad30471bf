/** The conversation as a list that follows its end, with earlier messages at its top, loaded as one scrolls there. */
import { type ReactNode, useEffect, useMemo, useRef } from "react"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import type { ChatMessage } from "../messages.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"
import { MessageItem } from "./MessageItem.tsx"
import { useFollowScroll } from "./useFollowScroll.ts"
import { useNearEdge, useStablePlace } from "./useHistoryScroll.ts"
import { useShowMessage } from "./useShowMessage.ts"

export interface MessageListProps {
  chat: StaffStreaming
  /** What the staff member is called. */
  name?: string | undefined
  labels?: Labels
  /** What stands below a finished message, e.g. buttons. Keep it the same function, or every row is drawn again. */
  renderActions?: ((message: ChatMessage) => ReactNode) | undefined
  /** What stands in an empty conversation. */
  empty?: ReactNode
  /** A message to bring into view, in its place, and to mark. */
  shownId?: string | null | undefined
  /** Told once it is in view, or cannot be found. */
  onShown?: ((isFound: boolean) => void) | undefined
}

export function MessageList({
  chat,
  name = "",
  labels = DEFAULT_LABELS,
  renderActions,
  empty,
  shownId = null,
  onShown = ignore,
}: MessageListProps) {
  const list = useRef<HTMLElement>(null)
  const { isFollowing, follow } = useFollowScroll(list)
  const { messages, status, hasOlder, isStreaming, progress } = chat
  const { loadOlder, regenerate, sendMessage } = chat
  const actions = useMemo(() => ({ regenerate, sendMessage }), [regenerate, sendMessage])
  const lastQuestion = messages.findLast(message => message.message_type === "user")
  const keepPlace = useStablePlace(list, messages[0]?.key)
  const loadEarlier = () => {
    keepPlace()
    void loadOlder()
  }
  const top = useNearEdge<HTMLButtonElement>(list, hasOlder, messages[0]?.key, loadEarlier)
  // biome-ignore lint/correctness/useExhaustiveDependencies: who asks wants to see the answer
  useEffect(follow, [follow, lastQuestion?.key])
  useShowMessage(list, chat, shownId, onShown)
  const last = messages.at(-1)
  return (
    <div className="ss-messages">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <section ref={list} className="ss-scroll" aria-label={labels.conversation} tabIndex={0}>
        <div className="ss-column">
          {hasOlder && (
            <button ref={top} type="button" className="ss-earlier" onClick={loadEarlier}>
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
                isLast={message === last && !isStreaming}
                actions={actions}
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

function ignore(): void {}

/** What is going on while nothing can be read; null while text comes. */
function describeWait({ status, progress }: StaffStreaming, labels: Labels): string | null {
  if (status === "reconnecting") return labels.reconnecting
  if (status !== "waiting") return null
  if (!progress?.runId) return labels.waiting
  return progress.phase === "building" ? labels.building : labels.thinking
}
