/**
 * Where one is, as the part of the address after `#`: the server has one page, under whatever prefix it is mounted.
 *
 *     #/staff-id/conversation-id/why/reply-id/message-id
 *
 * `-` stands for the first staff member, the default conversation, no panel. The last message is shown in its place.
 */
import { useSyncExternalStore } from "react"

export type PanelName = "why" | "memory" | "graph"

export interface Route {
  staffId: string | null
  /** Null for the default conversation. */
  conversationId: string | null
  panel: PanelName | null
  /** What the panel is about: a message or an entity. */
  focus: string | null
  /** The message to show in its place. */
  message: string | null
}

/** A route to go to: without a message it is the whole talk. */
export type Place = Omit<Route, "message"> & Partial<Pick<Route, "message">>

/** Stands for a conversation that the server does not have yet. */
export const NEW = "new"

const PANELS: readonly string[] = ["why", "memory", "graph"]

export function readRoute(hash: string): Route {
  const [staffId, conversationId, panel, focus, message] = hash
    .replace(/^#?\/?/, "")
    .split("/")
    .map(part => decode(part))
  const name = (part: string | undefined) => (!part || part === "-" ? null : part)
  return {
    staffId: name(staffId),
    conversationId: name(conversationId),
    panel: PANELS.includes(panel ?? "") ? (panel as PanelName) : null,
    focus: name(focus),
    message: name(message),
  }
}

export function writeRoute({ staffId, conversationId, panel, focus, message = null }: Place): string {
  const parts = [staffId, conversationId ?? "-", panel, focus, message]
  const end = parts.findLastIndex(part => part !== null && part !== "-")
  return `#/${parts
    .slice(0, end + 1)
    .map(part => encodeURIComponent(part ?? "-"))
    .join("/")}`
}

/** The present route, and what goes to another one; a change given in part leaves the rest as it is. */
export function useRoute(): [Route, (change: Partial<Route>) => void] {
  const hash = useSyncExternalStore(subscribe, () => location.hash)
  return [readRoute(hash), go]
}

function go(change: Partial<Route>): void {
  location.hash = writeRoute({ ...readRoute(location.hash), ...change })
}

/** Takes the message out of the address once it is shown, so that one can go to it again. */
export function forgetRouteMessage(): void {
  history.replaceState(history.state, "", writeRoute({ ...readRoute(location.hash), message: null }))
  window.dispatchEvent(new HashChangeEvent("hashchange"))
}

function subscribe(listener: () => void): () => void {
  window.addEventListener("hashchange", listener)
  return () => window.removeEventListener("hashchange", listener)
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    // Somebody's own idea of an address: taken as it stands, and then not found.
    return part
  }
}
