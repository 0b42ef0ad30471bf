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

/** A client for the server that sent this page, under whatever prefix. */
export function makeClient(key: string | null, onUnauthorized: () => void): StaffClient {
  const baseUrl = new URL(".", location.href).href
  const headers = key === null ? undefined : { Authorization: `Bearer ${key}` }
  return new StaffClient({ baseUrl, onUnauthorized, ...(headers && { headers }) })
}
