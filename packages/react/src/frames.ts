/**
 * At most one change a frame: a fast reply brings hundreds of tokens a second, and a screen shows sixty frames.
 */
export type Schedule = (callback: () => void) => void

/** A hidden page gets no animation frames, so a timer stands in for them. */
const HIDDEN_MS = 100

/** Calls back once, in the next animation frame, or soon where there are none. */
export function scheduleFrame(callback: () => void): void {
  if (typeof requestAnimationFrame === "undefined") {
    setTimeout(callback, 16)
    return
  }
  let isDone = false
  const run = () => {
    if (isDone) return
    isDone = true
    cancelAnimationFrame(frame)
    clearTimeout(timer)
    callback()
  }
  const frame = requestAnimationFrame(run)
  const timer = setTimeout(run, HIDDEN_MS)
}
