/**
 * Keeps the focus near where it was when what had it goes, or is disabled while it works.
 *
 * A browser lets it fall to the document then, and whoever uses the keyboard or a screen reader begins at the top again.
 */
const FOCUSABLE = "a[href], button, input, textarea, select, summary, [tabindex='0']"

export function keepFocus(root: HTMLElement): void {
  /** What had the focus, and all that it stands in, from the inside out. */
  let path: Element[] = []
  root.addEventListener("focusin", ({ target }) => {
    path = []
    for (let at = target as Element | null; at !== null && at !== root; at = at.parentElement) path.push(at)
  })
  // Whoever presses elsewhere leaves by themselves.
  root.addEventListener("pointerdown", () => path.splice(0), true)
  const watcher = new MutationObserver(() => {
    if (path.length === 0 || document.activeElement !== document.body || !document.hasFocus()) return
    const [last] = path
    // It works, and takes the focus back when it is done.
    if (last?.isConnected && last.matches(":disabled")) return
    for (const place of path.filter(({ isConnected }) => isConnected)) {
      const next = [place, ...place.querySelectorAll(FOCUSABLE)].find(isFit)
      if (next) return next.focus({ preventScroll: true })
    }
  })
  watcher.observe(root, { subtree: true, childList: true, attributes: true, attributeFilter: ["disabled"] })
}

function isFit(element: Element): element is HTMLElement {
  if (!(element instanceof HTMLElement) || !element.matches(FOCUSABLE) || element.matches(":disabled"))
    return false
  // On a touch screen a keyboard would come up that nobody asked for.
  const isWritten = element.matches("input, textarea") && matchMedia("(pointer: coarse)").matches
  return !isWritten && element.checkVisibility({ visibilityProperty: true })
}
