/** Every text that the components show, so that a host can use another language: `labels={{ send: "Senden" }}`. */
export interface Labels {
  conversation: string
  you: string
  placeholder: string
  send: string
  queue: string
  queued: string
  sendNow: string
  takeBack: string
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
  unanswered: string
  cancelled: string
  interrupted: string
  cutOff: string
  goOn: string
  refusal: string
  copy: string
  copied: string
  image: string
  isAnswering: (name: string) => string
}

export const DEFAULT_LABELS: Labels = {
  conversation: "Conversation",
  you: "You",
  placeholder: "Write a message",
  send: "Send",
  queue: "Send when the answer is complete",
  queued: "Waits for the answer to end:",
  sendNow: "Stop the answer, send now",
  takeBack: "Take it back",
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
  unanswered: "There is no answer to this.",
  cancelled: "Stopped",
  interrupted: "Broke off",
  cutOff: "The answer reached its longest length.",
  goOn: "Continue",
  refusal: "The model declined to answer this.",
  copy: "Copy",
  copied: "Copied",
  image: "image",
  isAnswering: name => `${name} is answering.`,
}
