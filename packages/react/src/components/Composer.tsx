/**
 * Where one writes. Enter sends, Shift+Enter breaks the line, Escape stops the reply; on a touch screen Enter breaks
 * the line, as its keyboard promises. What was refused comes back into the box.
 */
import { type FormEvent, type KeyboardEvent, type RefObject, useRef, useState } from "react"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"
import { useBrowserLayoutEffect } from "./useBrowserLayoutEffect.ts"

export interface ComposerProps {
  chat: StaffStreaming
  labels?: Labels
  autoFocus?: boolean | undefined
}

export function Composer({ chat, labels = DEFAULT_LABELS, autoFocus = false }: ComposerProps) {
  const [draft, setDraft] = useState("")
  const box = useRef<HTMLTextAreaElement>(null)
  const { isStreaming, sendMessage, stop } = chat
  useHeightOfText(box, draft)

  async function send(event?: FormEvent) {
    event?.preventDefault()
    if (isStreaming || draft.trim() === "") return
    setDraft("")
    const { status } = await sendMessage(draft)
    if (status === "refused") setDraft(current => current || draft)
  }

  function hear(event: KeyboardEvent) {
    if (event.key === "Escape" && isStreaming) void stop()
    // Enter that ends the composing of a Japanese or Chinese word is no Enter.
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing || isTouch()) return
    event.preventDefault()
    void send()
  }

  return (
    <form className="ss-composer" onSubmit={event => void send(event)}>
      <textarea
        ref={box}
        rows={1}
        dir="auto"
        value={draft}
        // biome-ignore lint/a11y/noAutofocus: a host asks for it where the chat is the page
        autoFocus={autoFocus}
        placeholder={labels.placeholder}
        aria-label={labels.placeholder}
        onChange={event => setDraft(event.target.value)}
        onKeyDown={hear}
      />
      {isStreaming ? (
        <button
          type="button"
          className="ss-stop"
          onClick={() => void stop()}
          aria-label={labels.stop}
          title={labels.stop}
        />
      ) : (
        <button
          type="submit"
          className="ss-send"
          disabled={draft.trim() === ""}
          aria-label={labels.send}
          title={labels.send}
        />
      )}
    </form>
  )
}

function isTouch(): boolean {
  return matchMedia("(pointer: coarse)").matches
}

/** As high as its text; the style sheet sets the limit. */
function useHeightOfText(box: RefObject<HTMLTextAreaElement | null>, text: string): void {
  // The text is what changes the height.
  useBrowserLayoutEffect(() => {
    if (box.current === null) return
    box.current.style.height = "auto"
    box.current.style.height = `${box.current.scrollHeight}px`
  }, [box, text])
}
