/**
 * Where one writes. Enter sends, Shift+Enter breaks the line, Escape stops the reply; on a touch screen Enter breaks
 * the line, as its keyboard shows. A message that was refused comes back into the box. One that is sent while a reply
 * is being made waits for its end, or stops it.
 */
import {
  type FormEvent,
  type KeyboardEvent,
  type RefObject,
  useCallback,
  useEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from "react"
import { type Draft, getDraft } from "../draft.ts"
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"
import { useBrowserLayoutEffect } from "./useBrowserLayoutEffect.ts"

export interface ComposerProps {
  chat: StaffStreaming
  labels?: Labels
  autoFocus?: boolean | undefined
  /** Where the text is kept while it is not sent; `getDraft(name)` keeps it over a reload. */
  draft?: Draft | undefined
}

export function Composer({ chat, labels = DEFAULT_LABELS, autoFocus = false, draft }: ComposerProps) {
  const [own] = useState(() => draft ?? getDraft(`own-${Math.random()}`))
  const store = draft ?? own
  const text = useSyncExternalStore(store.subscribe, store.get, noText)
  const [queued, setQueued] = useState<string | null>(null)
  const box = useRef<HTMLTextAreaElement>(null)
  const { isStreaming, sendMessage, stop } = chat
  useHeightOfText(box, text)

  const post = useCallback(
    async (content: string, isInterrupting = false) => {
      const { status } = await sendMessage(content, isInterrupting ? { multitask_strategy: "interrupt" } : {})
      if (status === "refused" && store.get() === "") store.set(content)
    },
    [sendMessage, store],
  )

  function send(event?: FormEvent) {
    event?.preventDefault()
    if (text.trim() === "" || queued !== null) return
    store.set("")
    if (isStreaming) setQueued(text)
    else void post(text)
  }

  useEffect(() => {
    if (isStreaming || queued === null) return
    setQueued(null)
    void post(queued)
  }, [isStreaming, queued, post])

  function onKeyDown(event: KeyboardEvent) {
    if (event.key === "Escape" && isStreaming) void stop()
    if (event.key !== "Enter" || event.shiftKey || isComposing(event) || isTouch()) return
    event.preventDefault()
    send()
  }

  return (
    <div className="ss-write">
      {queued !== null && (
        <div className="ss-queued" role="status">
          <p dir="auto">
            <small>{labels.queued}</small> {queued}
          </p>
          <button
            type="button"
            onClick={() => {
              setQueued(null)
              void post(queued, true)
            }}
          >
            {labels.sendNow}
          </button>
          <button
            type="button"
            aria-label={labels.takeBack}
            title={labels.takeBack}
            onClick={() => {
              store.set(queued)
              setQueued(null)
              box.current?.focus()
            }}
          >
            ×
          </button>
        </div>
      )}
      <form className="ss-composer" onSubmit={send}>
        <textarea
          ref={box}
          rows={1}
          dir="auto"
          value={text}
          // biome-ignore lint/a11y/noAutofocus: a host asks for it where the chat is the page
          autoFocus={autoFocus}
          placeholder={labels.placeholder}
          aria-label={labels.placeholder}
          enterKeyHint="send"
          onChange={event => store.set(event.target.value)}
          onKeyDown={onKeyDown}
        />
        {isStreaming && (
          <button
            type="button"
            className="ss-stop"
            onClick={() => void stop()}
            aria-label={labels.stop}
            title={labels.stop}
          />
        )}
        {(!isStreaming || (text.trim() !== "" && queued === null)) && (
          <button
            type="submit"
            className="ss-send"
            disabled={text.trim() === ""}
            aria-label={isStreaming ? labels.queue : labels.send}
            title={isStreaming ? labels.queue : labels.send}
          />
        )}
      </form>
    </div>
  )
}

const noText = () => ""

/**
 * Whether Enter ends the composing of a Japanese or Chinese word. Safari fires `compositionend` first, so that
 * `isComposing` is false by then; the key code 229 still says it.
 */
function isComposing({ nativeEvent }: KeyboardEvent): boolean {
  return nativeEvent.isComposing || nativeEvent.keyCode === 229
}

function isTouch(): boolean {
  return matchMedia("(pointer: coarse)").matches
}

/** As high as its text; the style sheet sets the limit. */
function useHeightOfText(box: RefObject<HTMLTextAreaElement | null>, text: string): void {
  useBrowserLayoutEffect(() => {
    if (box.current === null) return
    box.current.style.height = "auto"
    box.current.style.height = `${box.current.scrollHeight}px`
  }, [box, text])
}
