/**
 * Who one is: the key that the server asks for, and the client that carries it.
 *
 * A key lives as long as the tab, unless its owner asks to be kept signed in. Another key makes another client, and
 * with it everything that the page shows is asked for again.
 */
import { StaffClient } from "@staffstream/react"

const NAME = "staffstream-key"

export function readKey(): string | null {
  return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME)
}

export function saveKey(key: string, isKept: boolean): void {
  forgetKey()
  const storage = isKept ? localStorage : sessionStorage
  storage.setItem(NAME, key)
}

export function forgetKey(): void {
  sessionStorage.removeItem(NAME)
  localStorage.removeItem(NAME)
}

/** A client for the server that sent this page, under whatever prefix. */
export function makeClient(key: string | null): StaffClient {
  const baseUrl = new URL(".", location.href).href
  return new StaffClient({ baseUrl, ...(key !== null && { headers: { Authorization: `Bearer ${key}` } }) })
}
