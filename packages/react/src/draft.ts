/** What one is writing, kept for each conversation over a reload, and settable from outside, e.g. by a suggestion. */
import { findStorage } from "./pending.ts"

export class Draft {
  readonly #name: string
  readonly #listeners = new Set<() => void>()
  #text: string

  constructor(name: string) {
    this.#name = `staffstream:draft:${name}`
    this.#text = read(this.#name)
  }

  readonly get = (): string => this.#text

  readonly set = (text: string): void => {
    this.#text = text
    write(this.#name, text)
    for (const listener of this.#listeners) listener()
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

const drafts = new Map<string, Draft>()

/** The draft of this name, the same one for all who ask. */
export function getDraft(name: string): Draft {
  const draft = drafts.get(name) ?? new Draft(name)
  // A server renders for many users: nothing may outlive the request there.
  if (typeof window !== "undefined") drafts.set(name, draft)
  return draft
}

// Storage that is full or forbidden only costs the memory over a reload.
function read(name: string): string {
  try {
    return findStorage()?.getItem(name) ?? ""
  } catch {
    return ""
  }
}

function write(name: string, text: string): void {
  try {
    if (text === "") findStorage()?.removeItem(name)
    else findStorage()?.setItem(name, text)
  } catch {
    // See above.
  }
}
