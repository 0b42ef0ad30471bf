/**
 * What a page must remember to find its reply again after a reload: the run, or, until the server has named it,
 * the submission under its idempotency key.
 *
 * It is kept in `localStorage` so that a second tab can join in. The text goes as soon as the run is known. Storage
 * that is missing, full or forbidden only costs this memory, so its errors end here.
 */
export interface Pending {
  key: string
  runId: string | null
  /** The message, as long as the server has not acknowledged it; null for a run that is only joined. */
  content: string | null
  at: number
}

/** As long as the server keeps an idempotency key. */
const LIFETIME_MS = 24 * 60 * 60 * 1000

export class PendingStorage {
  readonly #storage: Storage | null
  readonly #name: string

  constructor(storage: Storage | null, name: string) {
    this.#storage = storage
    this.#name = `staffstream:${name}`
  }

  read(): Pending | null {
    try {
      const pending = parse(this.#storage?.getItem(this.#name) ?? null)
      return pending && Date.now() - pending.at < LIFETIME_MS ? pending : null
    } catch {
      return null
    }
  }

  write(pending: Pending | null): void {
    try {
      if (pending === null) this.#storage?.removeItem(this.#name)
      else this.#storage?.setItem(this.#name, JSON.stringify(pending))
    } catch {
      // Full or forbidden: the reply still works, a reload just won't find it.
    }
  }

  /** Calls back when another tab has begun or ended a run here; returns what takes the listener off. */
  onChange(listener: (pending: Pending | null) => void): () => void {
    if (this.#storage === null || typeof window === "undefined") return () => undefined
    const onStorage = (event: StorageEvent) => event.key === this.#name && listener(this.read())
    window.addEventListener("storage", onStorage)
    return () => window.removeEventListener("storage", onStorage)
  }
}

/** The browser's `localStorage`, or null where there is none or the page may not use it. */
export function findStorage(): Storage | null {
  try {
    return typeof localStorage === "undefined" ? null : localStorage
  } catch {
    return null
  }
}

function parse(text: string | null): Pending | null {
  if (text === null) return null
  const value = JSON.parse(text) as Partial<Pending> | null
  if (typeof value?.key !== "string" || typeof value.at !== "number") return null
  return { key: value.key, runId: value.runId ?? null, content: value.content ?? null, at: value.at }
}
