/** The talk: what the package's parts show, with this page's buttons below each reply and its figures below the talk. */
import {
  Announcer,
  ChatError,
  type ChatMessage,
  Composer,
  DEFAULT_LABELS,
  MessageList,
  type StaffStreaming,
  useStaffStreaming,
} from "@staffstream/react"
import { useCallback, useEffect, useMemo } from "react"
import { useApi, useStaff } from "./context.ts"
import { tellConversationsChanged } from "./conversations.ts"
import { Figures } from "./Figures.tsx"
import { Avatar, IconButton } from "./parts.tsx"
import { ReplyActions } from "./ReplyActions.tsx"
import { type PanelName, useRoute } from "./route.ts"
import { Welcome } from "./Welcome.tsx"

export function Chat({ onMenu }: { onMenu: () => void }) {
  const staff = useStaff()
  const [{ conversationId, panel }, go] = useRoute()
  const chat = useStaffStreaming(staff.id, { conversationId })
  const labels = useMemo(() => ({ ...DEFAULT_LABELS, placeholder: `Write to ${staff.name}` }), [staff.name])
  useTitle(staff.id, conversationId, chat)
  useServersCopy(chat)

  const { sendFeedback, regenerate } = chat
  const lastReplyId = chat.messages.findLast(message => message.message_type === "assistant")?.id
  const renderActions = useCallback(
    (message: ChatMessage) => (
      <ReplyActions
        message={message}
        isLast={message.id === lastReplyId}
        onRate={rating => void sendFeedback(message.id, { rating })}
        onRegenerate={() => void regenerate(message.id)}
        onWhy={() => go({ panel: "why", focus: message.id })}
      />
    ),
    [lastReplyId, sendFeedback, regenerate, go],
  )
  const toggle = (name: PanelName) => go({ panel: panel === name ? null : name, focus: null })
  return (
    <main className="talk">
      <header className="talk-head">
        <IconButton icon="menu" label="Staff and conversations" className="only-narrow" onClick={onMenu} />
        <Avatar name={staff.name} />
        <div className="row-text">
          <h1>
            <bdi>{staff.name}</bdi>
          </h1>
          {staff.role && (
            <small>
              <bdi>{staff.role}</bdi>
            </small>
          )}
        </div>
        <IconButton
          icon="memory"
          label="Memory"
          aria-pressed={panel === "memory"}
          onClick={() => toggle("memory")}
        />
        <IconButton
          icon="graph"
          label="Graph"
          aria-pressed={panel === "graph"}
          onClick={() => toggle("graph")}
        />
      </header>
      <div className="ss-chat">
        <MessageList
          chat={chat}
          name={staff.name}
          labels={labels}
          renderActions={renderActions}
          empty={<Welcome staff={staff} onSay={text => void chat.sendMessage(text)} />}
        />
        <ChatError chat={chat} labels={labels} />
        <Composer key={`${staff.id}/${conversationId}`} chat={chat} labels={labels} autoFocus />
        <Figures chat={chat} model={staff.model} />
        <Announcer chat={chat} name={staff.name} labels={labels} />
      </div>
    </main>
  )
}

const TITLE_CHARACTERS = 60

/** A new conversation is called after its first message; each reply moves it up in the list. */
function useTitle(
  staffId: string,
  conversationId: string | null,
  { messages, isStreaming, hasOlder }: StaffStreaming,
) {
  const api = useApi()
  const first = messages[0]
  const isFirstTurn = messages.length <= 2 && !hasOlder && first?.status === "complete"
  const title = isFirstTurn && conversationId ? first.content.trim().replace(/\s+/g, " ") : null
  useEffect(() => {
    if (title === null || conversationId === null || !isStreaming) return
    const short = [...title].slice(0, TITLE_CHARACTERS).join("")
    // A title is a nicety: without it the list shows the date.
    void api
      .renameConversation(staffId, conversationId, short)
      .then(tellConversationsChanged, () => undefined)
  }, [api, staffId, conversationId, title, isStreaming])
  useEffect(() => {
    if (!isStreaming) tellConversationsChanged()
  }, [isStreaming])
}

/** A stream tells what a reply says and costs; which model gave it, the saved message knows. */
function useServersCopy({ isStreaming, messages, refresh }: StaffStreaming) {
  const last = messages.at(-1)
  const isBare =
    !isStreaming && last?.status === "complete" && last.message_type === "assistant" && !("model" in last)
  useEffect(() => {
    if (isBare) void refresh()
  }, [isBare, refresh])
}
