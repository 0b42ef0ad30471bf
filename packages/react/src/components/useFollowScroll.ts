/**
 * A list that stays at its end while it grows, unless whoever reads it has scrolled up to read.
 *
 * It watches sizes, not tokens: whatever makes the list taller keeps its end in view. Only a movement upwards lets
 * go, so a fast reply cannot be mistaken for the hand of whoever reads.
 */
import { type RefObject, useCallback, useEffect, useRef, useState } from "react"

const NEAR_PX = 48

export function useFollowScroll(list: RefObject<HTMLElement | null>): {
  isFollowing: boolean
  follow: () => void
} {
  const [isFollowing, setFollowing] = useState(true)
  const following = useRef(true)

  const follow = useCallback(() => {
    following.current = true
    setFollowing(true)
    list.current?.scrollTo({ top: list.current.scrollHeight })
  }, [list])

  useEffect(() => {
    const element = list.current
    if (element === null) return
    let lastTop = element.scrollTop
    const onScroll = () => {
      const isNear = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX
      const hasLetGo = element.scrollTop < lastTop - 1 && !isNear
      lastTop = element.scrollTop
      following.current = isNear || (following.current && !hasLetGo)
      setFollowing(following.current)
    }
    const sizes = new ResizeObserver(() => {
      if (following.current) element.scrollTo({ top: element.scrollHeight })
    })
    sizes.observe(element)
    for (const child of element.children) sizes.observe(child)
    element.addEventListener("scroll", onScroll, { passive: true })
    return () => {
      sizes.disconnect()
      element.removeEventListener("scroll", onScroll)
    }
  }, [list])

  return { isFollowing, follow }
}
