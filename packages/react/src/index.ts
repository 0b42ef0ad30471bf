/** The public door: client, store, hook, components. `@staffstream/react/client` is the part without React. */
export * from "./client.ts"
export type { ChatMessage } from "./messages.ts"
export {
  type ChatSnapshot,
  type ChatStatus,
  ChatStore,
  type ChatStoreOptions,
  type SendMessageOptions,
} from "./store.ts"
export type { Progress, SendResult } from "./turn.ts"
export {
  StaffClientContext,
  type StaffStreaming,
  type StaffStreamingOptions,
  useStaffStreaming,
} from "./useStaffStreaming.ts"
