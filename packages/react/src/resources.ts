/** Lists and records of the server as React state, kept fresh by the live events. */
import { useCallback, useContext, useEffect, useMemo, useRef, useState } from "react"
import type {
  ListName,
  OperationArguments,
  OperationInput,
  OperationResponse,
  StaffClient,
} from "./client.ts"
import { type StaffstreamError, toStaffstreamError } from "./errors.ts"
import type {
  Context,
  Conversation,
  LearningState,
  Memory,
  MemoryOverview,
  MemoryWhole,
} from "./generated/api.ts"
import { getLiveFeed } from "./live.ts"
import { waitBeforeRetry } from "./reconnect.ts"
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
 * Something from the server. It is asked for again when `on` changes, when `isAffected` says so of a live event, and
 * after an outage; until the new answer is here, the last one stays.
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
    void loadUntilAnswered(
      () => load(client, controller.signal),
      data => setState({ data, error: null, isLoading: false }),
      error => setState(known => ({ ...known, error, isLoading: false })),
      controller.signal,
    )
    return () => controller.abort()
  }, [client, ...on, round])
  return { ...state, reload }
}

const FIRST_WAIT_MS = 1_000
const LONGEST_WAIT_MS = 15_000

/** Asks until there is an answer, or a refusal that asking again cannot change. */
async function loadUntilAnswered<T>(
  load: () => Promise<T>,
  onData: (data: T) => void,
  onError: (error: StaffstreamError) => void,
  signal: AbortSignal,
): Promise<void> {
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
    try {
      return onData(await load())
    } catch (thrown) {
      if (signal.aborted) return
      const error = toStaffstreamError(thrown)
      onError(error)
      if (!error.retryable) return
      await waitBeforeRetry(Math.max(waitMs, error.retryAfterMs ?? 0), signal).catch(() => undefined)
      if (signal.aborted) return
    }
  }
}

/** A list in pages, kept fresh like `useResource`: as many pages are asked for again as were loaded. */
export function usePages<Name extends ListName>(
  name: Name,
  input: OperationInput<Name>,
  isAffected?: (event: LiveEvent) => boolean,
  pageSize = 50,
): Pages<OperationResponse<Name>[number]> {
  type Item = OperationResponse<Name>[number]
  const [pages, setPages] = useState(1)
  const key = `${name}?${JSON.stringify(input)}`
  const loadedKey = useRef(key)
  const { data, error, reload } = useResource(
    async (client, signal) => {
      if (loadedKey.current !== key) setPages(1)
      const wanted = loadedKey.current === key ? pages : 1
      loadedKey.current = key
      return loadPages<Name>(client, name, input, wanted, pageSize, signal)
    },
    [key, pages],
    isAffected,
  )
  const loadMore = useCallback(() => setPages(count => count + 1), [])
  const items: readonly Item[] | null = data?.items ?? null
  return { items, hasMore: data?.hasMore ?? false, error, loadMore, reload }
}

async function loadPages<Name extends ListName>(
  client: StaffClient,
  name: Name,
  input: OperationInput<Name>,
  wanted: number,
  pageSize: number,
  signal: AbortSignal,
) {
  const items: OperationResponse<Name>[number][] = []
  let hasMore = true
  for (let page = 0; page < wanted && hasMore; page++) {
    const { query } = input as { query?: object }
    const paged = { ...input, query: { ...query, limit: pageSize, before: items.at(-1)?.id }, signal }
    const next = await client.requestPage(name, ...([paged] as unknown as OperationArguments<Name>))
    items.push(...next.items)
    hasMore = next.hasMore
  }
  return { items, hasMore }
}

/** The user's conversations with a staff member, most recently used first. */
export function useConversations(staffId: string): Pages<Conversation> {
  const isAffected = useCallback(
    ({ type, staff_id }: LiveEvent) =>
      type === "reset" ||
      (staff_id === staffId && (type === "conversation.changed" || type.startsWith("run."))),
    [staffId],
  )
  const path = { staff_id: staffId }
  return usePages("GET /api/v1/staff/{staff_id}/conversations", { path }, isAffected)
}

/** Which memories to list: those that fit a `query`, of a kind, a subject, a conversation …; see the API. */
export type MemoryFilter = Omit<
  NonNullable<OperationInput<"GET /api/v1/staff/{staff_id}/memories">["query"]>,
  "limit" | "before"
>

/** What a staff member remembers of the user: newest first, or with a `query` what fits it best. */
export function useMemories(staffId: string, filter: MemoryFilter = {}, pageSize = 50): Pages<Memory> {
  const input = { path: { staff_id: staffId }, query: filter }
  return usePages("GET /api/v1/staff/{staff_id}/memories", input, useMemoryEvents(staffId), pageSize)
}

/** One memory, with every form that it has had and the message that it came from. */
export function useMemory(staffId: string, memoryId: string): Resource<MemoryWhole> {
  const path = { staff_id: staffId, memory_id: memoryId }
  return useResource(
    (client, signal) => client.request("GET /api/v1/staff/{staff_id}/memories/{memory_id}", { path, signal }),
    [staffId, memoryId],
    useMemoryEvents(staffId),
  )
}

/** How much a staff member remembers of the user, and about whom and what. */
export function useMemoryOverview(staffId: string): Resource<MemoryOverview> {
  const path = { staff_id: staffId }
  return useResource(
    (client, signal) => client.request("GET /api/v1/staff/{staff_id}/memories/overview", { path, signal }),
    [staffId],
    useMemoryEvents(staffId),
  )
}

/** The facts of a conversation by the message that they were learned from. */
export function useLearnedFacts(
  staffId: string,
  conversationId: string | null,
): ReadonlyMap<string, readonly Memory[]> {
  const { data } = useResource(
    async (client, signal) => {
      if (conversationId === null) return []
      const input = {
        path: { staff_id: staffId },
        query: { kind: "fact" as const, conversation_id: conversationId },
      }
      const most = 20
      const name = "GET /api/v1/staff/{staff_id}/memories"
      return (await loadPages<typeof name>(client, name, input, most, 200, signal)).items
    },
    [staffId, conversationId],
    useMemoryEvents(staffId),
  )
  return useMemo(() => groupBySource(data ?? []), [data])
}

function groupBySource(memories: readonly Memory[]): ReadonlyMap<string, readonly Memory[]> {
  const groups = new Map<string, Memory[]>()
  for (const memory of memories) {
    // What took its place stands in its stead: a correction keeps its source.
    if (memory.source_message_id === null || memory.superseded_by !== null) continue
    groups.set(memory.source_message_id, [memory, ...(groups.get(memory.source_message_id) ?? [])])
  }
  return groups
}

/** How many messages nothing has been learned from yet, whether it is being done, and what does it now. */
export function useLearning(staffId: string): Resource<LearningState> & {
  isLearning: boolean
  learnNow: () => Promise<void>
} {
  const client = useContext(StaffClientContext)
  const [running, setRunning] = useState(0)
  const isAffected = useCallback(
    ({ type, staff_id }: LiveEvent) => {
      if (type !== "reset" && staff_id !== staffId) return false
      if (type === "reset") setRunning(0)
      if (type === "learning.started") setRunning(count => count + 1)
      if (type === "learning.ended") setRunning(count => Math.max(0, count - 1))
      return type === "reset" || type === "run.ended" || type.startsWith("learning.")
    },
    [staffId],
  )
  const path = { staff_id: staffId }
  const state = useResource(
    (_, signal) => client.request("GET /api/v1/staff/{staff_id}/learning", { path, signal }),
    [staffId],
    isAffected,
  )
  const learnNow = useCallback(async () => {
    await client.request("POST /api/v1/staff/{staff_id}/learning", { path: { staff_id: staffId } })
  }, [client, staffId])
  return { ...state, isLearning: running > 0, learnNow }
}

/** What a reply was built from; null while `messageId` is. Only erasing what is in it changes it. */
export function useReplyContext(staffId: string, messageId: string | null): Resource<Context | null> {
  const isAffected = useCallback(
    ({ type, staff_id }: LiveEvent) => staff_id === staffId && type === "memory.forgotten",
    [staffId],
  )
  return useResource(
    async (client, signal) => {
      if (messageId === null) return null
      const path = { staff_id: staffId, message_id: messageId }
      return client.request("GET /api/v1/staff/{staff_id}/messages/{message_id}/context", { path, signal })
    },
    [staffId, messageId],
    isAffected,
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
