/**
 * The list that a reader sees, as pure functions: what the server sent, and the run that is being made.
 *
 * A finished message keeps its identity for as long as it does not change, so that a list of memoised rows draws
 * only the row that grows. `key` stays the same from the optimistic message to the saved one.
 */
import type { Message } from "./types.ts"

export interface ChatMessage extends Omit<Message, "status"> {
  /** For React: unlike `id`, it does not change when the server names the message. */
  key: string
  status: "sending" | "streaming" | Message["status"]
}

/** One page of messages, newest first, laid over what is already here, oldest first. */
export function mergeMessages(known: readonly ChatMessage[], page: readonly Message[]): ChatMessage[] {
  const byId = new Map(known.map(message => [message.id, message]))
  const fresh = page.map(message => keepIdentity(byId.get(message.id), message)).reverse()
  const overlap = known.findIndex(message => message.id === fresh[0]?.id)
  return [...known.slice(0, Math.max(0, overlap)), ...fresh]
}

/** Older messages, newest first, put before what is already here, oldest first. */
export function prependMessages(known: readonly ChatMessage[], page: readonly Message[]): ChatMessage[] {
  const ids = new Set(known.map(message => message.id))
  const older = page.filter(message => !ids.has(message.id)).map(message => keepIdentity(undefined, message))
  return [...older.reverse(), ...known]
}

function keepIdentity(known: ChatMessage | undefined, message: Message): ChatMessage {
  const fresh = { ...message, key: known?.key ?? message.id }
  return known !== undefined && JSON.stringify(sorted(known)) === JSON.stringify(sorted(fresh))
    ? known
    : fresh
}

function sorted(message: ChatMessage): [string, unknown][] {
  return Object.entries(message).sort(([a], [b]) => (a < b ? -1 : 1))
}

/** Each question with its last answer only: an answer made before that was regenerated away. */
export function hideReplaced(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const latest = new Map(messages.map(message => [message.reply_to ?? message.id, message.id]))
  const isShown = (message: ChatMessage) => !message.reply_to || latest.get(message.reply_to) === message.id
  return messages.every(isShown) ? messages : messages.filter(isShown)
}
