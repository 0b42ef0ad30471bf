/**
 * Who one is: the key that the server asks for, and the client that carries it.
 *
 * A key lives as long as the tab, unless its owner asks to be kept signed in. Another key makes another client, and
 * with it everything that the page shows is asked for again.
 */
import { StaffClient } from "@staffstream/react"
import { kept, tab } from "./storage.ts"

const NAME = "staffstream-key"

export function readKey(): string | null {
  return tab.get(NAME) ?? kept.get(NAME)
}

export function saveKey(key: string, isKept: boolean): void {
  forgetKey()
  if (isKept) kept.set(NAME, key)
  else tab.set(NAME, key)
}

export function forgetKey(): void {
  tab.remove(NAME)
  kept.remove(NAME)
}

/** A client for the server that sent this page, under whatever prefix. `onRefused` is called when a call answers 401. */
export function makeClient(key: string | null, onRefused: () => void): StaffClient {
  const baseUrl = new URL(".", location.href).href
  return new StaffClient({
    baseUrl,
    ...(key !== null && { headers: { Authorization: `Bearer ${key}` } }),
    fetch: async (input, init) => {
      const response = await fetch(input, init)
      if (response.status === 401) onRefused()
      return response
    },
  })
}
