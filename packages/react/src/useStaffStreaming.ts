/**
 * The hook: a thin binding of React to the store.
 *
 * However many components ask for the same conversation of the same client, they share one store, and so one
 * stream. Its life is the subscription's: React's StrictMode, Suspense and unmounting need no care of their own.
 */
import { createContext, useContext, useMemo, useSyncExternalStore } from "react"
import { StaffClient } from "./client.ts"
import { type ChatSnapshot, ChatStore, type ChatStoreOptions } from "./store.ts"

export interface StaffStreamingOptions extends ChatStoreOptions {
  /** Default: the client of `StaffClientContext`, which is one for the page's own origin. */
  client?: StaffClient
}

export interface StaffStreaming
  extends ChatSnapshot,
    Pick<
      ChatStore,
      | "sendMessage"
      | "stop"
      | "retry"
      | "regenerate"
      | "resume"
      | "loadOlder"
      | "refresh"
      | "sendFeedback"
      | "dismissError"
    > {}

/** Gives the components below one client. Make it outside of them, so that it stays the same one. */
export const StaffClientContext = createContext(new StaffClient())

/** A conversation with a staff member: its messages as they grow, and what one can do. */
export function useStaffStreaming(staffId: string, options: StaffStreamingOptions = {}): StaffStreaming {
  const store = useChatStore(staffId, options)
  const snapshot = useSyncExternalStore(store.subscribe, store.getSnapshot, store.getServerSnapshot)
  return useMemo(() => ({ ...snapshot, ...actionsOf(store) }), [snapshot, store])
}

/** The store behind the hook, the same for all who ask for the same conversation. Only its first asker's options count. */
export function useChatStore(staffId: string, options: StaffStreamingOptions = {}): ChatStore {
  const context = useContext(StaffClientContext)
  const client = options.client ?? context
  const conversationId = options.conversationId ?? null
  // biome-ignore lint/correctness/useExhaustiveDependencies: the other options are read once, when the store is made
  return useMemo(() => getChatStore(client, staffId, options), [client, staffId, conversationId])
}

/** As many conversations stay ready to be shown at once when one comes back to them. */
const KEPT_STORES = 20

const stores = new WeakMap<StaffClient, Map<string, ChatStore>>()

/** The store of a conversation, shared by all who ask the same client for it. */
export function getChatStore(client: StaffClient, staffId: string, options: ChatStoreOptions): ChatStore {
  // A server renders for many users: nothing may outlive the request there.
  if (typeof window === "undefined") return new ChatStore(client, staffId, options)
  const kept = stores.get(client) ?? new Map<string, ChatStore>()
  stores.set(client, kept)
  const name = `${staffId}/${options.conversationId ?? ""}`
  const store = kept.get(name) ?? new ChatStore(client, staffId, options)
  kept.delete(name)
  kept.set(name, store)
  const oldest = [...kept].find(([, other]) => other !== store && !other.isSubscribed)
  if (kept.size > KEPT_STORES && oldest) kept.delete(oldest[0])
  return store
}

function actionsOf(store: ChatStore) {
  const { sendMessage, stop, retry, regenerate, resume } = store
  const { loadOlder, refresh, sendFeedback, dismissError } = store
  return {
    ...{ sendMessage, stop, retry, regenerate, resume },
    ...{ loadOlder, refresh, sendFeedback, dismissError },
  }
}
