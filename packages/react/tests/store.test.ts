import { afterEach, beforeEach, expect, test } from "vitest"
import { StaffClient } from "../src/client.ts"
import { ChatStore, type ChatStoreOptions } from "../src/store.ts"
import { ScriptedServer, until } from "./server.ts"

let server: ScriptedServer
let storage: Storage
const leave: (() => void)[] = []

beforeEach(async () => {
  server = await new ScriptedServer().start()
  storage = new MemoryStorage()
})
afterEach(async () => {
  for (const unsubscribe of leave.splice(0)) unsubscribe()
  await new Promise(resolve => setTimeout(resolve, 5))
  await server.stop()
})

/** What a browser keeps over a reload. */
class MemoryStorage implements Storage {
  [name: string]: unknown
  readonly #items = new Map<string, string>()
  get length() {
    return this.#items.size
  }
  key = (index: number) => [...this.#items.keys()][index] ?? null
  getItem = (name: string) => this.#items.get(name) ?? null
  setItem = (name: string, value: string) => void this.#items.set(name, value)
  removeItem = (name: string) => void this.#items.delete(name)
  clear = () => this.#items.clear()
}

function makeClient(fetch?: typeof globalThis.fetch): StaffClient {
  const limits = { backoffMs: 5, maxBackoffMs: 20, pollMs: 5, maxDrops: 2 }
  return new StaffClient({ baseUrl: server.url, limits, ...(fetch && { fetch }) })
}

/** A page: a store that is looked at. */
function open(options: ChatStoreOptions & { client?: StaffClient } = {}) {
  const { client = makeClient(), ...rest } = options
  const store = new ChatStore(client, "ada", { storage, schedule: soon, ...rest })
  const close = store.subscribe(() => undefined)
  leave.push(close)
  return { store, close, now: store.getSnapshot }
}

const soon = (callback: () => void) => void setTimeout(callback, 0)

const shown = (store: ChatStore) =>
  store.getSnapshot().messages.map(({ message_type, content, status }) => [message_type, content, status])

async function opened(options: Parameters<typeof open>[0] = {}) {
  const page = open(options)
  await until(() => page.now().status === "ready")
  return page
}

test("a message is shown at once, becomes the server's, and is followed by its reply as it grows", async () => {
  const { store, now } = await opened()
  const sent = store.sendMessage("Hello!")
  await until(() => now().status === "waiting")
  expect(shown(store)).toEqual([
    ["user", "Hello!", "sending"],
    ["assistant", "", "streaming"],
  ])
  const key = now().messages[0]?.key
  await until(() => server.runs.length)
  server.lastRun.say("Good ")
  await until(() => now().status === "streaming")
  expect(now().messages[0]).toMatchObject({ key, id: server.lastRun.question.id, status: "complete" })
  server.lastRun.say("day")
  server.lastRun.finish()
  const result = await sent
  expect(result).toMatchObject({ status: "done", message: { id: server.lastRun.id, content: "Good day" } })
  expect(now()).toMatchObject({ isStreaming: false, error: null, progress: { tokens: 2 } })
  expect(shown(store)).toEqual([
    ["user", "Hello!", "complete"],
    ["assistant", "Good day", "complete"],
  ])
  expect(now().messages[0]?.key).toBe(key)
})

test("a refused message is taken back, and the error says why", async () => {
  const { store, now } = await opened()
  server.refusals.push([
    "/stream",
    { status: 413, body: { code: "message_too_long", detail: "Shorten it." } },
  ])
  const result = await store.sendMessage("x".repeat(1000))
  expect(result).toMatchObject({ status: "refused", error: { code: "message_too_long", retryable: false } })
  expect(now()).toMatchObject({ messages: [], isStreaming: false, error: { message: "Shorten it." } })
})

test("a run that failed before its first word keeps the question; retry asks for a new reply to it", async () => {
  const { store, now } = await opened()
  const question = server.save("user", "Hello!")
  const headers = { "X-Run-Id": "run-x", "X-User-Message-Id": question.id }
  const body = { code: "upstream_overloaded", detail: "Claude is overloaded." }
  server.refusals.push(["/stream", { status: 503, body, headers }])
  expect(await store.sendMessage("Hello!")).toMatchObject({ status: "failed", error: { retryable: true } })
  expect(shown(store)).toEqual([["user", "Hello!", "complete"]])
  const retried = store.retry()
  await until(() => server.runs.length)
  server.lastRun.say("Here")
  server.lastRun.finish()
  await retried
  expect(server.asked("/regenerate").map(request => request.path)).toEqual([
    `/messages/${question.id}/regenerate`,
  ])
  expect(shown(store)).toEqual([
    ["user", "Hello!", "complete"],
    ["assistant", "Here", "complete"],
  ])
  expect(now().error).toBeNull()
})

test("a reply that fails midway keeps its text and can be made anew", async () => {
  const { store } = await opened()
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("Half of ")
  server.lastRun.fail()
  expect(await sent).toMatchObject({
    status: "failed",
    error: { code: "upstream_overloaded", retryable: true },
  })
  expect(shown(store).at(-1)).toEqual(["assistant", "Half of ", "interrupted"])
  const retried = store.retry()
  await until(() => server.runs.length === 2)
  server.lastRun.say("The whole")
  server.lastRun.finish()
  await retried
  expect(shown(store)).toEqual([
    ["user", "Hello!", "complete"],
    ["assistant", "The whole", "complete"],
  ])
})

test("a message of which nobody knows whether it arrived stays, and keeps its key however it is sent again", async () => {
  let isDown = true
  const fetch: typeof globalThis.fetch = async (url, init) => {
    if (isDown && init?.method === "POST") throw new TypeError("no route")
    return globalThis.fetch(url, init)
  }
  const { store, now } = await opened({ client: makeClient(fetch) })
  expect(await store.sendMessage("Hello!")).toMatchObject({
    status: "failed",
    error: { code: "connection_lost" },
  })
  expect(shown(store)).toEqual([["user", "Hello!", "sending"]])
  expect(await store.retry()).toMatchObject({ status: "failed" })
  const remembered = JSON.parse(storage.getItem(storage.key(0) ?? "") ?? "{}")
  isDown = false
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.finish()
  await sent
  expect(server.asked("POST /messages/stream").map(request => request.key)).toEqual([remembered.key])
  expect(now().error).toBeNull()
})

test("a reply that goes out of reach keeps what came of it, and retry takes it up", async () => {
  let isDown = false
  const fetch: typeof globalThis.fetch = async (url, init) => {
    if (isDown) throw new TypeError("no route")
    return globalThis.fetch(url, init)
  }
  const { store, now } = await opened({ client: makeClient(fetch) })
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("Half of ")
  await until(() => now().status === "streaming")
  isDown = true
  server.lastRun.drop()
  expect(await sent).toMatchObject({ status: "failed", error: { code: "connection_lost" } })
  expect(shown(store).at(-1)).toEqual(["assistant", "Half of ", "interrupted"])
  expect(now()).toMatchObject({ canRetry: true, isStreaming: false })
  isDown = false
  server.lastRun.say("it")
  server.lastRun.finish()
  expect(await store.retry()).toMatchObject({ status: "done" })
  expect(shown(store)).toEqual([
    ["user", "Hello!", "complete"],
    ["assistant", "Half of it", "complete"],
  ])
  expect(server.asked("POST /messages/stream")).toHaveLength(1)
})

test("a mistake in the host's own code is told apart from a bad network, and not tried again", async () => {
  let calls = 0
  const headers = () => {
    calls += 1
    if (calls > 1) throw new TypeError("undefined is not a function")
    return {}
  }
  const { store } = await opened({ client: new StaffClient({ baseUrl: server.url, headers }) })
  expect(await store.sendMessage("Hello!")).toMatchObject({
    status: "refused",
    error: { code: "client_error" },
  })
  expect(calls).toBe(2)
})

test("stop cancels the run and keeps what was said", async () => {
  const { store } = await opened()
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("Well")
  await until(() => store.getSnapshot().status === "streaming")
  await store.stop()
  expect(await sent).toMatchObject({ status: "cancelled", error: null })
  expect(shown(store).at(-1)).toEqual(["assistant", "Well", "cancelled"])
  expect(server.asked("/cancel")).toHaveLength(1)
})

test("stop before the run is known cancels it as soon as it is", async () => {
  const { store } = await opened()
  const sent = store.sendMessage("Hello!")
  await store.stop()
  expect(await sent).toMatchObject({ status: "cancelled", message: null })
  expect(server.lastRun.state).toBe("cancelled")
  expect(shown(store)).toEqual([["user", "Hello!", "complete"]])
})

test("stop while the server is out of reach takes the message back", async () => {
  const fetch: typeof globalThis.fetch = async (url, init) => {
    if (init?.method === "POST") throw new TypeError("no route")
    return globalThis.fetch(url, init)
  }
  const { store, now } = await opened({ client: makeClient(fetch) })
  const sent = store.sendMessage("Hello!")
  await until(() => now().status === "reconnecting")
  await store.stop()
  expect(await sent).toMatchObject({ status: "cancelled" })
  expect(now()).toMatchObject({ messages: [], error: null })
})

test("a second message while a reply is made is refused here, without a request", async () => {
  const { store, now } = await opened()
  const first = store.sendMessage("One")
  await until(() => server.runs.length)
  expect(await store.sendMessage("Two")).toMatchObject({
    status: "refused",
    error: { code: "conversation_busy" },
  })
  expect(server.asked("POST /messages/stream")).toHaveLength(1)
  expect(now().messages).toHaveLength(2)
  server.lastRun.finish()
  await first
})

test("an interrupting message ends the reply, keeps its text, and goes on", async () => {
  const { store } = await opened()
  const first = store.sendMessage("One")
  await until(() => server.runs.length)
  server.lastRun.say("I think")
  await until(() => store.getSnapshot().status === "streaming")
  const second = store.sendMessage("Two", { multitask_strategy: "interrupt" })
  expect(await first).toMatchObject({ status: "cancelled" })
  await until(() => server.runs.length === 2)
  server.lastRun.say("Right")
  server.lastRun.finish()
  await second
  await store.refresh()
  expect(shown(store)).toEqual([
    ["user", "One", "complete"],
    ["assistant", "I think", "cancelled"],
    ["user", "Two", "complete"],
    ["assistant", "Right", "complete"],
  ])
})

test("a reload in the middle of a reply shows all of it, not the tail, and goes on", async () => {
  const before = await opened()
  void before.store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ", "two ")
  await until(() => before.now().status === "streaming")
  before.close()
  await until(() => server.lastRun.readers.size === 0)
  expect(server.lastRun.state).toBe("streaming")

  const after = open()
  await until(() => after.now().messages.at(-1)?.content === "one two ")
  server.lastRun.say("three")
  server.lastRun.finish()
  await until(() => !after.now().isStreaming)
  expect(shown(after.store)).toEqual([
    ["user", "Hello!", "complete"],
    ["assistant", "one two three", "complete"],
  ])
  expect(server.asked("POST /messages/stream")).toHaveLength(1)
})

test("a reload after the reply was finished shows it once", async () => {
  const before = await opened()
  void before.store.sendMessage("Hello!")
  await until(() => before.now().progress?.runId)
  before.close()
  await until(() => server.lastRun.readers.size === 0)
  server.lastRun.say("All of it")
  server.lastRun.finish()
  const after = await opened()
  await until(() => storage.length === 0)
  expect(shown(after.store).map(([, content]) => content)).toEqual(["Hello!", "All of it"])
  expect(server.asked(`GET /runs/${server.lastRun.id}/stream`)).toHaveLength(0)
})

test("a reload before the server answered repeats the submission under its key", async () => {
  const never: typeof globalThis.fetch = (url, init) =>
    init?.method === "POST" ? new Promise(() => undefined) : globalThis.fetch(url, init)
  const before = await opened({ client: makeClient(never) })
  void before.store.sendMessage("Hello!")
  await until(() => before.now().status === "waiting")
  const { key } = JSON.parse(storage.getItem(storage.key(0) ?? "") ?? "{}")
  before.close()
  const after = open()
  await until(() => server.runs.length)
  server.lastRun.say("Hi")
  server.lastRun.finish()
  await until(() => after.now().messages.at(-1)?.status === "complete")
  expect(server.asked("POST /messages/stream").map(request => request.key)).toEqual([key])
})

test("a remembered run that is gone is forgotten without a word", async () => {
  storage.setItem(
    `staffstream:${server.url}|ada|`,
    JSON.stringify({ key: "k", runId: "gone", at: Date.now() }),
  )
  const { store, now } = await opened()
  await until(() => storage.length === 0 && !now().isStreaming)
  expect(now().error).toBeNull()
  expect(shown(store)).toEqual([])
})

test("storage that throws or holds rubbish costs only the memory of a reload", async () => {
  storage.getItem = () => "{rubbish"
  storage.setItem = () => {
    throw new DOMException("full", "QuotaExceededError")
  }
  const { store } = await opened()
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.finish()
  expect(await sent).toMatchObject({ status: "done" })
})

test("coming back without storage takes the reply up again", async () => {
  const { store, close, now } = await opened({ storage: null })
  void store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  close()
  await until(() => server.lastRun.readers.size === 0)
  leave.push(store.subscribe(() => undefined))
  await until(() => server.lastRun.readers.size === 1)
  server.lastRun.say("two")
  server.lastRun.finish()
  await until(() => !now().isStreaming && now().messages.length === 2)
  expect(shown(store).at(-1)).toEqual(["assistant", "one two", "complete"])
})

test("what was shown stays while nobody looks, and until the reply that is taken up again has caught up", async () => {
  const { store, close, now } = await opened()
  void store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ", "two ")
  await until(() => shown(store).at(-1)?.[1] === "one two ")
  const before = shown(store)
  const keys = now().messages.map(({ key }) => key)
  close()
  await until(() => server.lastRun.readers.size === 0)
  await new Promise(resolve => setTimeout(resolve, 10))
  expect(shown(store)).toEqual(before)
  const seen: string[] = []
  leave.push(store.subscribe(() => seen.push(JSON.stringify(shown(store)))))
  await until(() => server.lastRun.readers.size === 1)
  server.lastRun.say("three")
  server.lastRun.finish()
  await until(() => shown(store).at(-1)?.[2] === "complete")
  expect(seen.filter(one => !one.includes("one two ") || !one.includes("Hello!"))).toEqual([])
  expect(shown(store)).toEqual([
    ["user", "Hello!", "complete"],
    ["assistant", "one two three", "complete"],
  ])
  expect(now().messages.map(({ key }) => key)).toEqual(keys)
})

test("what ended without a word while nobody looked leaves nothing behind", async () => {
  const { store, close, now } = await opened()
  void store.sendMessage("Hello!")
  await until(() => server.runs.length)
  close()
  await until(() => server.lastRun.readers.size === 0)
  server.lastRun.finish("cancelled")
  leave.push(store.subscribe(() => undefined))
  await until(() => now().status === "ready" && !now().isStreaming)
  await until(() => shown(store).length === 1)
  expect(shown(store)).toEqual([["user", "Hello!", "complete"]])
})

test("two watchers of one store share one stream; the last one to leave ends it, but not the run", async () => {
  const { store, close } = await opened()
  const closeSecond = store.subscribe(() => undefined)
  void store.sendMessage("Hello!")
  await until(() => server.runs.length && server.lastRun.readers.size === 1)
  close()
  await new Promise(resolve => setTimeout(resolve, 10))
  expect(server.lastRun.readers.size).toBe(1)
  closeSecond()
  await until(() => server.lastRun.readers.size === 0)
  expect(server.asked("/cancel")).toHaveLength(0)
  expect(server.asked("/stream")).toHaveLength(1)
})

test("a conversation kept busy from elsewhere is joined, and the refusal stays said", async () => {
  const other = await opened({ storage: null })
  void other.store.sendMessage("From the phone")
  await until(() => server.runs.length)
  const { store, now } = await opened({ storage: new MemoryStorage() })
  const result = await store.sendMessage("From the desk")
  expect(result).toMatchObject({ status: "refused", error: { code: "conversation_busy" } })
  await until(() => now().isStreaming)
  server.lastRun.say("To the phone")
  server.lastRun.finish()
  await until(() => !now().isStreaming)
  expect(shown(store).map(([, content]) => content)).toEqual(["From the phone", "To the phone"])
})

test("older messages are loaded page by page, without doubles", async () => {
  for (let number = 1; number <= 7; number++) server.save("user", `message ${number}`)
  const { store, now } = await opened({ pageSize: 3 })
  expect(now()).toMatchObject({ hasOlder: true })
  expect(now().messages).toHaveLength(3)
  await store.loadOlder()
  await store.loadOlder()
  expect(now().messages.map(message => message.content)).toEqual(
    [1, 2, 3, 4, 5, 6, 7].map(n => `message ${n}`),
  )
  expect(now().hasOlder).toBe(false)
  await store.loadOlder()
  expect(server.asked("GET /messages")).toHaveLength(3)
})

test("a gap wider than a page starts the list anew instead of hiding messages", async () => {
  server.save("user", "old")
  const { store, now } = await opened({ pageSize: 2 })
  for (const content of ["a", "b", "c"]) server.save("user", content)
  await store.refresh()
  expect(now().messages.map(message => message.content)).toEqual(["b", "c"])
  expect(now().hasOlder).toBe(true)
})

test("a reply that ends while a page of history is on its way is not lost", async () => {
  let release = (): void => undefined
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  let isHolding = false
  const fetch: typeof globalThis.fetch = async (url, init) => {
    const response = await globalThis.fetch(url, init)
    if (isHolding && init?.method === "GET") await held
    return response
  }
  const { store } = await opened({ client: makeClient(fetch) })
  isHolding = true
  const refreshed = store.refresh()
  await until(() => server.asked("GET /messages").length === 2)
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("Hi")
  server.lastRun.finish()
  await sent
  isHolding = false
  release()
  await refreshed
  expect(shown(store).map(([, content]) => content)).toEqual(["Hello!", "Hi"])
})

test("finished messages keep their identity while a reply grows and when the page is read again", async () => {
  server.save("user", "Earlier")
  const { store, now } = await opened()
  const [first] = now().messages
  const sent = store.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => now().status === "streaming")
  const question = now().messages[1]
  server.lastRun.say("two")
  await until(() => now().messages[2]?.content === "one two")
  expect(now().messages[1]).toBe(question)
  server.lastRun.finish()
  await sent
  await store.refresh()
  expect(now().messages[0]).toBe(first)
  const read = now().messages
  await store.refresh()
  for (const [index, message] of now().messages.entries()) expect(message).toBe(read[index])
})

test("10,000 tokens change the snapshot at most once a frame, and all of them are there", async () => {
  const frames: (() => void)[] = []
  const { store, now } = open({ schedule: callback => void frames.push(callback) })
  let changes = 0
  leave.push(
    store.subscribe(() => {
      changes += 1
    }),
  )
  const sent = store.sendMessage("Count!")
  await until(() => server.runs.length)
  server.lastRun.say(...Array.from({ length: 10_000 }, (_, index) => `${index} `))
  server.lastRun.finish()
  let drawn = 0
  let isDone = false
  void sent.then(() => {
    isDone = true
  })
  while (!isDone) {
    expect(frames.length).toBeLessThanOrEqual(1)
    for (const frame of frames.splice(0)) frame()
    drawn += 1
    await new Promise(resolve => setTimeout(resolve, 1))
  }
  expect(changes).toBeLessThanOrEqual(drawn)
  expect(now().messages.at(-1)?.content.split(" ")).toHaveLength(10_001)
  expect(now().progress?.tokens).toBe(10_000)
})

test("a reply made anew replaces the old one, which comes back when the new one is refused", async () => {
  const question = server.save("user", "Tell me")
  server.save("assistant", "First try", { reply_to: question.id })
  const { store } = await opened()
  server.refusals.push(["/regenerate", { status: 429, body: { code: "too_many_requests", detail: "Wait." } }])
  expect(await store.regenerate()).toMatchObject({ error: { code: "too_many_requests" } })
  expect(shown(store).at(-1)).toEqual(["assistant", "First try", "complete"])
  const made = store.regenerate()
  await until(() => server.runs.length)
  await until(() => shown(store).at(-1)?.[1] === "")
  expect(shown(store)).toHaveLength(2)
  server.lastRun.say("Second try")
  server.lastRun.finish()
  await made
  await store.refresh()
  expect(shown(store)).toEqual([
    ["user", "Tell me", "complete"],
    ["assistant", "Second try", "complete"],
  ])
})

test("feedback is shown at once and taken back when the server does not get it", async () => {
  const question = server.save("user", "Tell me")
  const reply = server.save("assistant", "So", { reply_to: question.id })
  const { store, now } = await opened()
  await store.sendFeedback(reply.id, { rating: 1 })
  await until(() => now().messages[1]?.feedback?.rating === 1)
  server.refusals.push(["/feedback", { status: 500, body: { code: "internal_error", detail: "Ours." } }])
  await store.sendFeedback(reply.id, { rating: -1 })
  await until(() => now().error !== null)
  expect(now().messages[1]?.feedback?.rating).toBe(1)
})

test("nothing but white space is not sent, and there is nothing to retry in a fresh store", async () => {
  const { store } = await opened()
  expect(await store.sendMessage(" \n\t")).toMatchObject({
    status: "refused",
    error: { code: "missing_message" },
  })
  expect(await store.retry()).toMatchObject({ status: "refused" })
  expect(await store.regenerate()).toMatchObject({ status: "refused" })
  expect(server.asked("POST /messages/stream")).toHaveLength(0)
})

test("a history that cannot be read is an error, and reading it later takes the error away", async () => {
  const body = { code: "unauthorized", detail: "Send a valid key." }
  server.refusals.push(["GET /messages", { status: 401, body }])
  const { store, now } = await opened()
  expect(now().error).toMatchObject({ code: "unauthorized", status: 401, retryable: false })
  await store.refresh()
  expect(now().error).toBeNull()
})
