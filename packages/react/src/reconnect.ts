/**
 * The moments at which a connection that seems alive may be dead: the network came back, or the page did.
 *
 * A laptop that slept or a phone that changed network leaves sockets open that will never speak again; the
 * browser tells by `online`, `visibilitychange` and, for a page kept in the back-forward cache, `pageshow`.
 */
export type ReturnCause = "online" | "visible" | "restored"

/** Calls `listener` at each of these moments; returns what takes it off again. Does nothing where there is no window. */
export function onReturn(listener: (cause: ReturnCause) => void): () => void {
  if (typeof window === "undefined") return () => undefined
  const online = () => listener("online")
  const visible = () => document.visibilityState === "visible" && listener("visible")
  const restored = (event: PageTransitionEvent) => listener(event.persisted ? "restored" : "visible")
  window.addEventListener("online", online)
  window.addEventListener("pageshow", restored)
  document.addEventListener("visibilitychange", visible)
  return () => {
    window.removeEventListener("online", online)
    window.removeEventListener("pageshow", restored)
    document.removeEventListener("visibilitychange", visible)
  }
}

/** A browser that thinks it is offline is mostly right, and tells when it is not; mostly. */
const OFFLINE_MS = 30_000

/** Waits `waitMs`, or less at one of these moments; longer without a network. Raises the signal's reason. */
export async function waitBeforeRetry(waitMs: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await new Promise<void>((resolve, reject) => {
    const isOffline = typeof navigator !== "undefined" && navigator.onLine === false
    const timer = setTimeout(finish, isOffline ? Math.max(waitMs, OFFLINE_MS) : waitMs)
    const unhook = onReturn(finish)
    signal.addEventListener("abort", finish, { once: true })
    function finish() {
      clearTimeout(timer)
      unhook()
      signal.removeEventListener("abort", finish)
      if (signal.aborted) reject(signal.reason)
      else resolve()
    }
  })
}

/** Calls `listener` once the page has been hidden for so long; returns what takes it off again. */
export function onHidden(afterMs: number, listener: () => void): () => void {
  if (typeof document === "undefined") return () => undefined
  let timer: ReturnType<typeof setTimeout> | undefined
  const change = () => {
    clearTimeout(timer)
    if (document.visibilityState === "hidden") timer = setTimeout(listener, afterMs)
  }
  document.addEventListener("visibilitychange", change)
  return () => {
    clearTimeout(timer)
    document.removeEventListener("visibilitychange", change)
  }
}
