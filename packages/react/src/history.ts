/**
 * The part of a conversation that is here, oldest message first, page by page.
 *
 * It reads from the server and knows nothing of the run that is being made. A page that arrives after the history
 * changed under it is read again, since it may lack what came meanwhile.
 */
import type { MessagePage, StaffClient } from "./client.ts"
import { type ChatMessage, mergeMessages, prependMessages } from "./messages.ts"

export interface HistoryOptions {
  conversationId: string | null
  pageSize: number
}

export class MessageHistory {
  messages: readonly ChatMessage[] = []
  hasOlder = false
  readonly #client: StaffClient
  readonly #staffId: string
  readonly #options: HistoryOptions
  #version = 0

  constructor(client: StaffClient, staffId: string, options: HistoryOptions) {
    this.#client = client
    this.#staffId = staffId
    this.#options = options
  }

  has(messageId: string): boolean {
    return this.messages.some(message => message.id === messageId)
  }

  /** The newest page, laid over what is here. */
  async refresh(): Promise<void> {
    await this.#load({}, page => {
      this.messages = mergeMessages(this.messages, page.messages)
      if (this.messages.length === page.messages.length) this.hasOlder = page.hasMore
    })
  }

  async loadOlder(): Promise<void> {
    const before = this.messages[0]?.id
    if (before === undefined || !this.hasOlder) return
    await this.#load({ before }, page => {
      this.messages = prependMessages(this.messages, page.messages)
      this.hasOlder = page.hasMore
    })
  }

  /** Adds or replaces messages at the end. */
  keep(...messages: (ChatMessage | null)[]): void {
    const kept = messages.filter(message => message !== null)
    const ids = new Set(kept.map(message => message.id))
    this.messages = [...this.messages.filter(message => !ids.has(message.id)), ...kept]
    this.#version += 1
  }

  patch(messageId: string, change: Partial<ChatMessage>): void {
    this.messages = this.messages.map(known => (known.id === messageId ? { ...known, ...change } : known))
  }

  async #load(part: { before?: string }, apply: (page: MessagePage) => void): Promise<void> {
    const version = this.#version
    const { conversationId, pageSize } = this.#options
    const page = await this.#client.listMessages(this.#staffId, {
      conversation_id: conversationId ?? undefined,
      limit: pageSize,
      ...part,
    })
    if (version !== this.#version) return this.#load(part, apply)
    apply(page)
  }
}
