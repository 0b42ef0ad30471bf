/** A browser's window for the tests that need one; `fetch` stays Node's own, over real sockets. */
import { JSDOM } from "jsdom"

const { window } = new JSDOM("<!doctype html><body></body>", {
  url: "http://127.0.0.1/",
  pretendToBeVisual: true,
})

const names = [
  "window",
  "document",
  "navigator",
  "localStorage",
  "requestAnimationFrame",
  "cancelAnimationFrame",
  "HTMLElement",
  "HTMLIFrameElement",
  "HTMLInputElement",
  "Node",
  "Event",
  "StorageEvent",
  "getSelection",
] as const

for (const name of names) {
  const value = name === "window" ? window : window[name]
  const bound =
    typeof value === "function" && /^[a-z]/.test(name) ? (value as () => unknown).bind(window) : value
  Object.defineProperty(globalThis, name, { value: bound, configurable: true, writable: true })
}

/** Tells the page that it is seen, or not. */
export function setVisibility(state: "visible" | "hidden"): void {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true })
  document.dispatchEvent(new window.Event("visibilitychange"))
}

/** What jsdom lacks: it lays nothing out, so sizes never change and nothing scrolls. */
class StillObserver {
  observe(): void {}
  disconnect(): void {}
}
Object.assign(globalThis, { ResizeObserver: StillObserver, matchMedia: () => ({ matches: false }) })
window.HTMLElement.prototype.scrollTo = () => undefined
