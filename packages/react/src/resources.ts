/** Lists and records of the server as React state, kept fresh by the live events. */
import { useCallback, useContext, useEffect, useRef, useState } from "react"
import type { StaffClient } from "./client.ts"
import { type StaffstreamError, toStaffstreamError } from "./errors.ts"
import type { Context, Conversation, Memory } from "./generated/api.ts"
import { getLiveFeed } from "./live.ts"
import type { LiveEvent } from "./types.ts"
import { StaffClientContext } from "./useStaffStreaming.ts"

export interface Resource<T> {
  data: T | null
  error: StaffstreamError | null
  isLoading: boolean
  reload: () => void
}

export interface Pages<T> {
  /** All pages that were loaded, in one list; null before the first one. */
  items: readonly T[] | null
  error: StaffstreamError | null
  hasMore: boolean
  loadMore: () => void
  reload: () => void
}

/** Calls back at each live event of the user, of this and of other tabs. Keep the function the same. */
export function useLive(listener: (event: LiveEvent) => void): void {
  const client = useContext(StaffClientContext)
  useEffect(() => getLiveFeed(client).subscribe(listener), [client, listener])
}

/**
 * Something from the server. It is asked for again when `on` changes and when `isAffected` says so of a live event;
 * until the new answer is here, the last one stays.
 */
export function useResource<T>(
  load: (client: StaffClient, signal: AbortSignal) => Promise<T>,
  on: readonly unknown[],
  isAffected?: (event: LiveEvent) => boolean,
): Resource<T> {
  const client = useContext(StaffClientContext)
  const [state, setState] = useState<Omit<Resource<T>, "reload">>({
    data: null,
    error: null,
    isLoading: true,
  })
  const [round, reload] = useRound(isAffected)
  // biome-ignore lint/correctness/useExhaustiveDependencies: the caller says what the answer depends on
  useEffect(() => {
    const controller = new AbortController()
    setState(known => ({ ...known, isLoading: true }))
    load(client, controller.signal).then(
      data => setState({ data, error: null, isLoading: false }),
      thrown => {
        if (controller.signal.aborted) return
        setState(known => ({ ...known, error: toStaffstreamError(thrown), isLoading: false }))
      },
    )
    return () => controller.abort()
  }, [client, ...on, round])
  return { ...state, reload }
}

/** A list in pages, kept fresh like `useResource`: as many pages are asked for again as were loaded. */
export function usePages<T extends { id: string }>(
  path: string,
  query: Record<string, string | number | boolean | null | undefined>,
  isAffected?: (event: LiveEvent) => boolean,
  pageSize = 50,
): Pages<T> {
  const client = useContext(StaffClientContext)
  const [pages, setPages] = useState(1)
  const key = `${path}?${JSON.stringify(query)}`
  const loadedKey = useRef(key)
  const { data, error, reload } = useResource(
    async (_, signal) => {
      if (loadedKey.current !== key) setPages(1)
      const wanted = loadedKey.current === key ? pages : 1
      loadedKey.current = key
      const items: T[] = []
      let hasMore = true
      for (let page = 0; page < wanted && hasMore; page++) {
        const before = items.at(-1)?.id
        const next = await client.listPage<T>(path, { ...query, limit: pageSize, before }, signal)
        items.push(...next.items)
        hasMore = next.hasMore
      }
      return { items, hasMore }
    },
    [key, pages],
    isAffected,
  )
  const loadMore = useCallback(() => setPages(count => count + 1), [])
  return { items: data?.items ?? null, hasMore: data?.hasMore ?? false, error, loadMore, reload }
}

/** The user's conversations with a staff member, most recently used first. */
export function useConversations(staffId: string): Pages<Conversation> {
  const isAffected = useCallback(
    ({ type, staff_id }: LiveEvent) =>
      type === "reset" ||
      (staff_id === staffId && (type === "conversation.changed" || type.startsWith("run."))),
    [staffId],
  )
  return usePages<Conversation>(`/staff/${encodeURIComponent(staffId)}/conversations`, {}, isAffected)
}

export interface MemoryFilter {
  query?: string | undefined
  kind?: "fact" | "episode" | undefined
  /** Only what was forgotten. */
  deleted?: boolean | undefined
}

/** What a staff member remembers of the user: newest first, or with a `query` what fits it best. */
export function useMemories(staffId: string, filter: MemoryFilter = {}): Pages<Memory> {
  return usePages<Memory>(
    `/staff/${encodeURIComponent(staffId)}/memories`,
    { ...filter },
    useMemoryEvents(staffId),
  )
}

/** What a reply was built from. It never changes. */
export function useReplyContext(staffId: string, messageId: string): Resource<Context> {
  return useResource(
    (client, signal) =>
      client.call<Context>(
        "GET",
        `/staff/${encodeURIComponent(staffId)}/messages/${encodeURIComponent(messageId)}/context`,
        { signal },
      ),
    [staffId, messageId],
  )
}

/** Whether a live event changes what a staff member remembers. */
export function useMemoryEvents(staffId: string): (event: LiveEvent) => boolean {
  return useCallback(
    ({ type, staff_id }: LiveEvent) =>
      type === "reset" || (staff_id === staffId && (type.startsWith("memory.") || type === "learning.ended")),
    [staffId],
  )
}

const BURST_MS = 150

/** A number that grows when something has to be asked for again; several events at once count as one. */
function useRound(isAffected: ((event: LiveEvent) => boolean) | undefined): [number, () => void] {
  const client = useContext(StaffClientContext)
  const [round, setRound] = useState(0)
  const reload = useCallback(() => setRound(count => count + 1), [])
  useEffect(() => {
    if (!isAffected) return
    let timer: ReturnType<typeof setTimeout> | undefined
    const leave = getLiveFeed(client).subscribe(event => {
      if (!isAffected(event)) return
      clearTimeout(timer)
      timer = setTimeout(reload, BURST_MS)
    })
    return () => {
      clearTimeout(timer)
      leave()
    }
  }, [client, isAffected, reload])
  return [round, reload]
}
