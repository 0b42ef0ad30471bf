/**
 * Brings one message into view, in its place, and marks it: earlier pages are loaded until it is here.
 *
 * Rows out of view have estimated heights, so it is brought to the middle again for a few frames.
 */
import { type RefObject, useEffect, useRef } from "react"
import type { StaffStreaming } from "../useStaffStreaming.ts"

const HELD_FRAMES = 12

export function useShowMessage(
  list: RefObject<HTMLElement | null>,
  chat: StaffStreaming,
  messageId: string | null,
  onShown: (isFound: boolean) => void,
): void {
  const { messages, status, hasOlder, loadOlder } = chat
  const isHere = messages.some(({ id }) => id === messageId)
  const oldest = messages[0]?.id
  const latest = useRef({ onShown, loadOlder })
  latest.current = { onShown, loadOlder }
  // biome-ignore lint/correctness/useExhaustiveDependencies: each page that comes is looked through
  useEffect(() => {
    if (messageId === null || status === "loading") return
    if (isHere) {
      const row = list.current?.querySelector<HTMLElement>(`[data-id="${CSS.escape(messageId)}"]`)
      if (row) mark(row)
      latest.current.onShown(row !== null)
    } else if (hasOlder) void latest.current.loadOlder()
    else latest.current.onShown(false)
  }, [list, messageId, isHere, status === "loading", hasOlder, oldest])
}

function mark(row: HTMLElement): void {
  let frames = HELD_FRAMES
  const hold = () => {
    row.scrollIntoView({ block: "center" })
    frames -= 1
    if (frames > 0) requestAnimationFrame(hold)
  }
  hold()
  row.tabIndex = -1
  row.focus({ preventScroll: true })
  row.dataset.shown = "true"
  row.addEventListener("animationend", () => delete row.dataset.shown, { once: true })
}
