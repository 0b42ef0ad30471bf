/** Whom one can talk to, and the conversations with the one who is present. */
import { useActivity, useConversations } from "@staffstream/react"
import { useEffect, useRef, useState } from "react"
import type { Conversation, Staff } from "./api.ts"
import { useApi, useServer } from "./context.ts"
import { formatWhen } from "./format.ts"
import { Icon } from "./icons.tsx"
import { Avatar, Dialog, ErrorText, IconButton } from "./parts.tsx"
import { NEW, useRoute, writeRoute } from "./route.ts"
import { ThemeButton } from "./ThemeButton.tsx"
import { useAction } from "./useAction.ts"

export interface SidebarProps {
  staff: Staff[]
  present: Staff | null
  isOpen: boolean
  onEdit: (staff: Staff | "new") => void
  onLeave: (() => void) | null
  onClose: () => void
}

export function Sidebar({ staff, present, isOpen, onEdit, onLeave, onClose }: SidebarProps) {
  useEscape(isOpen, onClose)
  const { isAdmin } = useServer()
  return (
    <>
      <nav className="sidebar" aria-label="Staff and conversations">
        <div className="sidebar-head">
          <img src="./icon.svg" alt="" width="26" height="26" />
          <strong>staffstream</strong>
          <ThemeButton />
          {onLeave && <IconButton icon="key" label="Sign out" onClick={onLeave} />}
          <IconButton icon="close" label="Close the menu" className="only-narrow" onClick={onClose} />
        </div>
        <div className="section-head">
          <h2>Staff</h2>
          {isAdmin && <IconButton icon="plus" label="New staff member" onClick={() => onEdit("new")} />}
        </div>
        <ul className="rows">
          {staff.map(member => (
            <li key={member.id}>
              <a
                className="row"
                href={writeRoute({ staffId: member.id, conversationId: null, panel: null, focus: null })}
                aria-current={member.id === present?.id ? "true" : undefined}
                onClick={onClose}
              >
                <Avatar name={member.name} />
                <span className="row-text">
                  <b>
                    <bdi>{member.name}</bdi>
                  </b>
                  {member.role && (
                    <small>
                      <bdi>{member.role}</bdi>
                    </small>
                  )}
                </span>
              </a>
              {isAdmin && (
                <IconButton icon="edit" label={`Edit ${member.name}`} onClick={() => onEdit(member)} />
              )}
            </li>
          ))}
        </ul>
        {present && <Conversations staffId={present.id} onClose={onClose} />}
      </nav>
      <button type="button" className="shade" aria-label="Close the menu" tabIndex={-1} onClick={onClose} />
    </>
  )
}

function Conversations({ staffId, onClose }: { staffId: string; onClose: () => void }) {
  const [route, go] = useRoute()
  const [deleted, setDeleted] = useState<Conversation | null>(null)
  const list = useConversations(staffId)
  const { runningIds, unreadIds } = useActivity(route.conversationId)
  const main = list.items?.find(conversation => conversation.is_default)
  const named = (list.items ?? []).filter(conversation => !conversation.is_default)
  const more = useRef<HTMLButtonElement>(null)
  const { hasMore, loadMore, items } = list
  // biome-ignore lint/correctness/useExhaustiveDependencies: each page has another end to watch
  useEffect(() => {
    if (!hasMore || more.current === null) return
    const watcher = new IntersectionObserver(([entry]) => entry?.isIntersecting && loadMore())
    watcher.observe(more.current)
    return () => watcher.disconnect()
  }, [hasMore, loadMore, items])
  return (
    <>
      <div className="section-head">
        <h2>Conversations</h2>
        <IconButton
          icon="plus"
          label="New conversation"
          onClick={() => {
            go({ staffId, conversationId: NEW, panel: null, focus: null })
            onClose()
          }}
        />
      </div>
      <ErrorText error={list.error} />
      <ul className="rows">
        <ConversationRow
          staffId={staffId}
          conversation={null}
          isPresent={route.conversationId === null || route.conversationId === main?.id}
          isRunning={runningIds.has(main?.id ?? "")}
          isUnread={unreadIds.has(main?.id ?? "")}
          onOpen={onClose}
        />
        {named.map(conversation => (
          <ConversationRow
            key={conversation.id}
            staffId={staffId}
            conversation={conversation}
            isPresent={route.conversationId === conversation.id}
            isRunning={runningIds.has(conversation.id)}
            isUnread={unreadIds.has(conversation.id)}
            onOpen={onClose}
            onDelete={() => setDeleted(conversation)}
          />
        ))}
      </ul>
      {hasMore && (
        <button ref={more} type="button" className="more" onClick={loadMore}>
          More conversations
        </button>
      )}
      {deleted && (
        <DeleteConversation
          staffId={staffId}
          conversation={deleted}
          onClose={() => setDeleted(null)}
          onDeleted={() => {
            setDeleted(null)
            list.reload()
            if (route.conversationId === deleted.id) go({ conversationId: null, panel: null, focus: null })
          }}
        />
      )}
    </>
  )
}

interface ConversationRowProps {
  staffId: string
  /** Null for the default one, which is always there. */
  conversation: Conversation | null
  isPresent: boolean
  /** A reply is being made in it. */
  isRunning: boolean
  /** A reply has come that nobody has seen yet. */
  isUnread: boolean
  onOpen: () => void
  onDelete?: () => void
}

function ConversationRow(props: ConversationRowProps) {
  const { staffId, conversation, isPresent, isRunning, isUnread, onOpen, onDelete } = props
  const title = conversation === null ? "Main conversation" : conversation.title || "New conversation"
  return (
    <li>
      <a
        className="row"
        href={writeRoute({ staffId, conversationId: conversation?.id ?? null, panel: null, focus: null })}
        aria-current={isPresent ? "page" : undefined}
        onClick={onOpen}
      >
        <span className="row-text">
          <span>
            <bdi>{title}</bdi>
          </span>
          {conversation && <small>{formatWhen(conversation.updated_at)}</small>}
        </span>
        {isRunning && <span className="dot" data-kind="running" role="img" aria-label="is answering" />}
        {isUnread && !isPresent && <span className="dot" role="img" aria-label="unread" />}
      </a>
      {onDelete && <IconButton icon="trash" label={`Delete ${title}`} onClick={onDelete} />}
    </li>
  )
}

interface DeleteConversationProps {
  staffId: string
  conversation: Conversation
  onDeleted: () => void
  onClose: () => void
}

function DeleteConversation({ staffId, conversation, onDeleted, onClose }: DeleteConversationProps) {
  const api = useApi()
  const erase = useAction(() => api.deleteConversation(staffId, conversation.id))
  return (
    <Dialog title="Delete this conversation?" onClose={onClose}>
      <p>
        <b dir="auto">{conversation.title || "New conversation"}</b> and its messages are erased. This cannot
        be undone.
      </p>
      <ErrorText error={erase.error} />
      <footer className="dialog-foot">
        <button type="button" onClick={onClose}>
          Keep it
        </button>
        <button
          type="button"
          className="danger"
          disabled={erase.isBusy}
          onClick={async () => (await erase.run()) && onDeleted()}
        >
          <Icon name="trash" /> Delete
        </button>
      </footer>
    </Dialog>
  )
}

function useEscape(isOpen: boolean, onClose: () => void): void {
  useEffect(() => {
    if (!isOpen) return
    const onKeyDown = (event: KeyboardEvent) => event.key === "Escape" && onClose()
    window.addEventListener("keydown", onKeyDown)
    return () => window.removeEventListener("keydown", onKeyDown)
  }, [isOpen, onClose])
}
