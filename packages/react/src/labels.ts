/** Every word that the components show, so that a host can bring its own language: `labels={{ send: "Senden" }}`. */
export interface Labels {
  conversation: string
  you: string
  placeholder: string
  send: string
  stop: string
  retry: string
  dismiss: string
  earlier: string
  latest: string
  empty: string
  waiting: string
  building: string
  thinking: string
  reconnecting: string
  unsent: string
  cancelled: string
  interrupted: string
  isAnswering: (name: string) => string
}

export const DEFAULT_LABELS: Labels = {
  conversation: "Conversation",
  you: "You",
  placeholder: "Write a message",
  send: "Send",
  stop: "Stop",
  retry: "Try again",
  dismiss: "Dismiss",
  earlier: "Earlier messages",
  latest: "Jump to the latest message",
  empty: "Say hello to begin.",
  waiting: "On its way",
  building: "Remembering",
  thinking: "Thinking",
  reconnecting: "Connection lost, trying again",
  unsent: "Not sent yet",
  cancelled: "Stopped",
  interrupted: "Broke off",
  isAnswering: name => `${name} is answering.`,
}
