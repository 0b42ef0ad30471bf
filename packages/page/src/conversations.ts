/** A word between the chat and the list of conversations: a new one has got its title, or moved to the top. */
const target = new EventTarget()

export function tellConversationsChanged(): void {
  target.dispatchEvent(new Event("change"))
}

export function onConversationsChange(listener: () => void): () => void {
  target.addEventListener("change", listener)
  return () => target.removeEventListener("change", listener)
}
