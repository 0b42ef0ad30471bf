/** Scrolling through a history that is loaded page by page. */
import { type RefObject, useCallback, useEffect, useRef } from "react"
import { useBrowserLayoutEffect } from "./useBrowserLayoutEffect.ts"

/**
 * Keeps what one reads in its place when messages are put above it. Call the answer before loading them.
 *
 * The first row that is seen is found again afterwards. The browser's own scroll anchoring is off meanwhile, as both
 * together would move the list twice; it is on otherwise, for rows whose height becomes known only when they are seen.
 */
export function useStablePlace(
  list: RefObject<HTMLElement | null>,
  firstKey: string | undefined,
): () => void {
  const anchor = useRef<{ row: Element; top: number } | null>(null)
  useBrowserLayoutEffect(() => {
    const element = list.current
    if (element === null || anchor.current === null) return
    const { row, top } = anchor.current
    anchor.current = null
    return holdInPlace(element, row, top)
  }, [list, firstKey])
  return useCallback(() => {
    const element = list.current
    if (element === null) return
    const edge = element.getBoundingClientRect().top
    const row = [...element.querySelectorAll(".ss-message")].find(
      candidate => candidate.getBoundingClientRect().bottom > edge,
    )
    if (!row) return
    anchor.current = { row, top: row.getBoundingClientRect().top }
    element.style.setProperty("overflow-anchor", "none")
  }, [list])
}

/** As many frames as rows near the edge take to get their real heights. */
const HELD_FRAMES = 8

/** Keeps a row at its height in the window for a few frames, unless one scrolls; returns what ends it at once. */
function holdInPlace(list: HTMLElement, row: Element, top: number): () => void {
  let frames = 0
  let frame = 0
  const release = () => {
    cancelAnimationFrame(frame)
    list.style.removeProperty("overflow-anchor")
    list.removeEventListener("wheel", release)
    list.removeEventListener("touchmove", release)
  }
  let held: number | null = null
  const hold = () => {
    // Somebody else has scrolled: a hand on the scroll bar, or a key.
    if (held !== null && Math.abs(list.scrollTop - held) > 1) return release()
    list.scrollTop += row.getBoundingClientRect().top - top
    held = list.scrollTop
    frames += 1
    if (frames > HELD_FRAMES) release()
    else frame = requestAnimationFrame(hold)
  }
  list.addEventListener("wheel", release, { passive: true })
  list.addEventListener("touchmove", release, { passive: true })
  hold()
  return release
}

/** How far from the edge loading begins. */
const AHEAD_PX = 800

/** Calls `load` when the marked element comes near while `hasMore`, once for each `edgeKey`. */
export function useNearEdge<Element extends HTMLElement>(
  list: RefObject<HTMLElement | null>,
  hasMore: boolean,
  edgeKey: string | undefined,
  load: () => void,
): RefObject<Element | null> {
  const mark = useRef<Element>(null)
  const latest = useRef(load)
  latest.current = load
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new edge has to be watched anew
  useEffect(() => {
    if (!hasMore || mark.current === null || typeof IntersectionObserver === "undefined") return
    const watcher = new IntersectionObserver(
      ([entry]) => {
        if (!entry?.isIntersecting) return
        watcher.disconnect()
        latest.current()
      },
      { root: list.current, rootMargin: `${AHEAD_PX}px 0px` },
    )
    watcher.observe(mark.current)
    return () => watcher.disconnect()
  }, [list, hasMore, edgeKey])
  return mark
}
