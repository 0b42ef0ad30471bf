/** Whom one can talk to, and the conversations with the one who is present. */
import { useEffect, useState } from "react"
import type { Conversation, Staff } from "./api.ts"
import { useApi } from "./context.ts"
import { onConversationsChange } from "./conversations.ts"
import { formatWhen } from "./format.ts"
import { Icon } from "./icons.tsx"
import { Avatar, Dialog, ErrorText, IconButton } from "./parts.tsx"
import { useRoute, writeRoute } from "./route.ts"
import { ThemeButton } from "./ThemeButton.tsx"
import { useAction, useLoad } from "./useLoad.ts"

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
          <IconButton icon="plus" label="New staff member" onClick={() => onEdit("new")} />
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
              <IconButton icon="edit" label={`Edit ${member.name}`} onClick={() => onEdit(member)} />
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
  const api = useApi()
  const [route, go] = useRoute()
  const [deleted, setDeleted] = useState<Conversation | null>(null)
  const list = useLoad(signal => api.listConversations(staffId, signal), [api, staffId])
  const reload = list.reload
  useEffect(() => onConversationsChange(reload), [reload])
  const begin = useAction(async () => {
    const { id } = await api.createConversation(staffId)
    list.reload()
    go({ staffId, conversationId: id, panel: null, focus: null })
    onClose()
  })
  const main = list.data?.find(conversation => conversation.is_default)
  const named = (list.data ?? []).filter(conversation => !conversation.is_default)
  return (
    <>
      <div className="section-head">
        <h2>Conversations</h2>
        <IconButton
          icon="plus"
          label="New conversation"
          disabled={begin.isBusy}
          onClick={() => void begin.run()}
        />
      </div>
      <ErrorText error={list.error ?? begin.error} />
      <ul className="rows">
        <ConversationRow
          staffId={staffId}
          conversation={null}
          isPresent={route.conversationId === null || route.conversationId === main?.id}
          onOpen={onClose}
        />
        {named.map(conversation => (
          <ConversationRow
            key={conversation.id}
            staffId={staffId}
            conversation={conversation}
            isPresent={route.conversationId === conversation.id}
            onOpen={onClose}
            onDelete={() => setDeleted(conversation)}
          />
        ))}
      </ul>
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
  onOpen: () => void
  onDelete?: () => void
}

function ConversationRow({ staffId, conversation, isPresent, onOpen, onDelete }: ConversationRowProps) {
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
    const hear = (event: KeyboardEvent) => event.key === "Escape" && onClose()
    window.addEventListener("keydown", hear)
    return () => window.removeEventListener("keydown", hear)
  }, [isOpen, onClose])
}
