/** The talk: what the package's parts show, with this page's buttons below each reply and its figures below the talk. */
import {
  Announcer,
  ChatError,
  type ChatMessage,
  Composer,
  DEFAULT_LABELS,
  getChatStore,
  getDraft,
  MessageList,
  type StaffStreaming,
  type StaffstreamError,
  toStaffstreamError,
  useLearnedFacts,
  useStaffStreaming,
} from "@staffstream/react"
import { useCallback, useEffect, useMemo, useState } from "react"
import { useApi, useServer, useStaff } from "./context.ts"
import { Figures } from "./Figures.tsx"
import { LearnedContext, LearnedNote } from "./memory/LearnedNote.tsx"
import { LearningNote } from "./memory/LearningNote.tsx"
import { UsedMemories } from "./memory/UsedMemories.tsx"
import { Avatar, IconButton } from "./parts.tsx"
import { ReplyActions } from "./ReplyActions.tsx"
import { forgetRouteMessage, NEW, type PanelName, useRoute } from "./route.ts"
import { Welcome } from "./Welcome.tsx"

export function Chat({ onMenu }: { onMenu: () => void }) {
  const staff = useStaff()
  const [{ conversationId, panel, message: shownId }, go] = useRoute()
  const { me } = useServer()
  const isNew = conversationId === NEW
  const own = useStaffStreaming(staff.id, isNew ? { conversationId: NEW, isIdle: true } : { conversationId })
  const learned = useLearnedFacts(staff.id, isNew ? null : own.conversationId)
  const chat = useNewConversation(own)
  const draft = getDraft(`${staff.id}/${conversationId ?? ""}`)
  const labels = useMemo(() => ({ ...DEFAULT_LABELS, placeholder: `Write to ${staff.name}` }), [staff.name])
  useServersCopy(chat)

  const { sendFeedback, regenerate } = chat
  const lastReplyId = chat.messages.findLast(message => message.message_type === "assistant")?.id
  const renderActions = useCallback(
    (message: ChatMessage) => (
      <>
        <LearnedNote messageId={message.id} />
        {/* An imported reply has no model: nothing is known of how it was made. */}
        {message.message_type === "assistant" && message.model && <UsedMemories messageId={message.id} />}
        <ReplyActions
          message={message}
          isLast={message.id === lastReplyId}
          onRate={rating => void sendFeedback(message.id, { rating })}
          onRegenerate={() => void regenerate(message.id)}
          onWhy={() => go({ panel: "why", focus: message.id })}
        />
      </>
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
          id="memory-button"
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
      {me?.offline && (
        <p className="banner" role="note">
          A stand-in answers here. For Claude, set <code>ANTHROPIC_API_KEY</code> and start without{" "}
          <code>--offline</code>.
        </p>
      )}
      <div className="ss-chat">
        <LearnedContext value={learned}>
          <MessageList
            chat={chat}
            name={staff.name}
            labels={labels}
            renderActions={renderActions}
            shownId={shownId}
            onShown={forgetRouteMessage}
            empty={
              <Welcome
                staff={staff}
                onPick={text => {
                  draft.set(text)
                  document.querySelector<HTMLElement>(".ss-composer textarea")?.focus()
                }}
              />
            }
          />
        </LearnedContext>
        {staff.memory_enabled && <LearningNote staffId={staff.id} />}
        <ChatError chat={chat} labels={labels} />
        <Composer key={`${staff.id}/${conversationId}`} chat={chat} labels={labels} draft={draft} autoFocus />
        <Figures chat={chat} model={staff.model} />
        <Announcer chat={chat} name={staff.name} labels={labels} />
      </div>
    </main>
  )
}

const TITLE_CHARACTERS = 60

/**
 * A new conversation is made on the server with its first message, and called after it: looking at an empty one, or
 * pressing "+" again and again, leaves nothing behind.
 */
function useNewConversation(chat: StaffStreaming): StaffStreaming {
  const api = useApi()
  const staff = useStaff()
  const [{ conversationId }, go] = useRoute()
  const isNew = conversationId === NEW
  const [failure, setFailure] = useState<StaffstreamError | null>(null)
  const sendMessage = useCallback(
    async (content: string) => {
      const title = [...content.trim().replace(/\s+/g, " ")].slice(0, TITLE_CHARACTERS).join("")
      try {
        const { id } = await api.createConversation(staff.id, title)
        const sent = getChatStore(api.client, staff.id, { conversationId: id }).sendMessage(content)
        go({ conversationId: id })
        return sent
      } catch (thrown) {
        const error = toStaffstreamError(thrown)
        setFailure(error)
        return { status: "refused" as const, message: null, error }
      }
    },
    [api, staff.id, go],
  )
  return useMemo(() => {
    if (!isNew) return chat
    const dismissError = () => setFailure(null)
    return {
      ...chat,
      messages: [],
      status: "ready" as const,
      hasOlder: false,
      error: failure,
      sendMessage,
      dismissError,
    }
  }, [isNew, chat, failure, sendMessage])
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
