/** Whether an element has come into view; true from then on. */
import { type RefObject, useEffect, useState } from "react"

export function useSeen(place: RefObject<Element | null>): boolean {
  const [isSeen, setSeen] = useState(false)
  useEffect(() => {
    if (isSeen || place.current === null) return
    const watcher = new IntersectionObserver(([entry]) => entry?.isIntersecting && setSeen(true))
    watcher.observe(place.current)
    return () => watcher.disconnect()
  }, [isSeen, place])
  return isSeen
}
