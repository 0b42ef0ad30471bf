/** In which conversations a reply is being made, and in which one has come that nobody has seen yet. */
import { useCallback, useEffect, useRef, useState } from "react"
import { useLive } from "./resources.ts"
import type { LiveEvent } from "./types.ts"

const NONE: ReadonlySet<string> = new Set()

/** The ids of these conversations, as far as live events have told; `presentId` is the one that is looked at. */
export function useActivity(presentId: string | null): {
  runningIds: ReadonlySet<string>
  unreadIds: ReadonlySet<string>
} {
  const [runningIds, setRunning] = useState(NONE)
  const [unreadIds, setUnread] = useState(NONE)
  const present = useRef(presentId)
  present.current = presentId
  const onEvent = useCallback(({ type, conversation_id: id }: LiveEvent) => {
    if (type === "reset") setRunning(NONE)
    if (!id) return
    if (type === "run.started") setRunning(known => new Set([...known, id]))
    if (type !== "run.ended") return
    setRunning(known => without(known, id))
    const isSeen = present.current === id && document.visibilityState === "visible"
    if (!isSeen) setUnread(known => new Set([...known, id]))
  }, [])
  useLive(onEvent)
  useEffect(() => {
    if (presentId !== null) setUnread(known => without(known, presentId))
  }, [presentId])
  return { runningIds, unreadIds }
}

function without(known: ReadonlySet<string>, id: string): ReadonlySet<string> {
  return known.has(id) ? new Set([...known].filter(other => other !== id)) : known
}
