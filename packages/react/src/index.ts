"use client"

/** The public interface: client, store, hook, components. `@staffstream/react/client` is the part without React. */
export * from "./client.ts"
export { Announcer } from "./components/Announcer.tsx"
export { ChatError } from "./components/ChatError.tsx"
export { Composer, type ComposerProps } from "./components/Composer.tsx"
export { copyText } from "./components/copyText.ts"
export { MarkdownContext, type MarkdownExtensions } from "./components/extensions.ts"
export { Markdown, type MarkdownProps } from "./components/Markdown.tsx"
export { MessageList, type MessageListProps } from "./components/MessageList.tsx"
export { StaffChat, type StaffChatProps } from "./components/StaffChat.tsx"
export { type Draft, getDraft } from "./draft.ts"
export { toStaffstreamError } from "./errors.ts"
export { DEFAULT_LABELS, type Labels } from "./labels.ts"
export type { Progress, SendResult } from "./liveRun.ts"
export { toPlainText } from "./markdown.ts"
export type { ChatMessage } from "./messages.ts"
export {
  type MemoryFilter,
  type Pages,
  type Resource,
  useConversations,
  useLearnedFacts,
  useLearning,
  useLive,
  useMemories,
  useMemory,
  useMemoryEvents,
  useMemoryOverview,
  usePages,
  useReplyContext,
  useResource,
} from "./resources.ts"
export {
  type ChatSnapshot,
  type ChatStatus,
  ChatStore,
  type ChatStoreOptions,
  type SendMessageOptions,
} from "./store.ts"
export { useActivity } from "./useActivity.ts"
export {
  getChatStore,
  StaffClientContext,
  type StaffStreaming,
  type StaffStreamingOptions,
  useStaffStreaming,
} from "./useStaffStreaming.ts"
