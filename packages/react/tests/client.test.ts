import { afterEach, beforeEach, expect, test } from "vitest"
import { type ClientOptions, type ReplyEvent, StaffClient, StaffstreamError } from "../src/client.ts"
import { ScriptedServer, until } from "./server.ts"

let server: ScriptedServer
beforeEach(async () => {
  server = await new ScriptedServer().start()
})
afterEach(() => server.stop())

const quick = { backoffMs: 5, maxBackoffMs: 20, pollMs: 5 }

function makeClient(options: ClientOptions = {}): StaffClient {
  return new StaffClient({ baseUrl: server.url, ...options, limits: { ...quick, ...options.limits } })
}

/** Follows a reply in the background; `text` grows as a reader's screen would. */
function follow(reply: AsyncGenerator<ReplyEvent, void>) {
  const seen = { events: [] as ReplyEvent[], text: "", end: null as Promise<unknown> | null }
  const read = async () => {
    for await (const event of reply) {
      seen.events.push(event)
      if (event.type === "token") seen.text += event.content
      if (event.type === "reset") seen.text = event.content
    }
    return seen.events.at(-1)
  }
  return Object.assign(seen, { end: read() })
}

const send = (client = makeClient(), options = {}) =>
  follow(client.sendMessage("ada", { content: "Hello!" }, options))

test("a reply arrives token by token and ends in done", async () => {
  const reply = send()
  await until(() => server.runs.length)
  server.lastRun.say("Hel", "lo")
  await until(() => reply.text === "Hello")
  server.lastRun.finish()
  expect(await reply.end).toMatchObject({
    type: "done",
    message_id: server.lastRun.id,
    usage: { output_tokens: 2 },
  })
  expect(reply.events.map(event => event.type)).toEqual(["accepted", "token", "token", "done"])
  expect(reply.events[0]).toMatchObject({ runId: server.lastRun.id, conversationId: "conversation-1" })
})

for (const how of ["cut", "end"] as const) {
  test(`a stream that is ${how} without a terminal frame is joined again from its cursor`, async () => {
    const reply = send()
    await until(() => server.runs.length)
    server.lastRun.say("one ", "two ")
    await until(() => reply.text === "one two ")
    server.lastRun.drop(how)
    server.lastRun.say("three")
    server.lastRun.finish()
    expect(await reply.end).toMatchObject({ type: "done" })
    expect(reply.text).toBe("one two three")
    expect(server.asked("/stream").map(({ method, query }) => [method, query.get("after")])).toEqual([
      ["POST", null],
      ["GET", "2"],
    ])
  })
}

test("frames that were seen before are dropped", async () => {
  const reply = send()
  await until(() => server.runs.length)
  server.lastRun.say("one ", "two ")
  await until(() => reply.text === "one two ")
  for (const reader of server.lastRun.readers)
    reader.write(server.lastRun.tokenFrame(0) + server.lastRun.tokenFrame(1))
  server.lastRun.say("three")
  server.lastRun.finish()
  await reply.end
  expect(reply.text).toBe("one two three")
})

test("an unanswered POST is repeated under its own key, so the message is sent once", async () => {
  let attempts = 0
  const fetch: typeof globalThis.fetch = async (url, init) => {
    const response = await globalThis.fetch(url, init)
    if (init?.method === "POST" && ++attempts < 3) throw new TypeError("the answer got lost")
    return response
  }
  const reply = send(makeClient({ fetch }))
  await until(() => attempts === 3)
  server.lastRun.say("Hi")
  server.lastRun.finish()
  expect(await reply.end).toMatchObject({ type: "done" })
  expect(new Set(server.asked("POST /messages/stream").map(request => request.key)).size).toBe(1)
  expect(server.messages.filter(message => message.message_type === "user")).toHaveLength(1)
})

test("a gateway's bare 502 is a lost connection, not a refusal", async () => {
  server.refusals.push(["POST /messages/stream", { status: 502, isProxy: true }])
  const reply = send()
  await until(() => server.runs.length)
  server.lastRun.finish()
  expect(await reply.end).toMatchObject({ type: "done" })
  expect(reply.events.map(event => event.type)).toEqual(["connection", "connection", "accepted", "done"])
})

test("a refusal is a typed error with its code, status, wait and request id", async () => {
  const body = { code: "too_many_requests", detail: "Too many requests.", request_id: "r-1" }
  server.refusals.push(["/stream", { status: 429, body, headers: { "Retry-After": "7" } }])
  const error = await send().end?.catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(StaffstreamError)
  expect(error).toMatchObject({ ...{ code: body.code, message: body.detail, requestId: "r-1" }, status: 429 })
  expect(error).toMatchObject({ retryable: true, retryAfterMs: 7000 })
  expect(server.requests).toHaveLength(1)
})

test("a page that is not staffstream's is told apart from a reply", async () => {
  const fetch: typeof globalThis.fetch = async () =>
    new Response("<html>", { headers: { "Content-Type": "text/html" } })
  await expect(send(makeClient({ fetch })).end).rejects.toMatchObject({ code: "bad_response" })
})

test("a server that is never reached ends in connection_lost after its attempts", async () => {
  let attempts = 0
  const fetch: typeof globalThis.fetch = async () => {
    attempts += 1
    throw new TypeError("no route")
  }
  const reply = send(makeClient({ fetch, limits: { maxDrops: 3 } }))
  await expect(reply.end).rejects.toMatchObject({ code: "connection_lost", retryable: true })
  expect(attempts).toBe(4)
})

test("a server that is busy restarting does not end a reply that has begun", async () => {
  const reply = send()
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => reply.text === "one ")
  server.refusals.push([
    "GET /runs/run-0001/stream",
    { status: 503, body: { code: "draining", detail: "Later." } },
  ])
  server.lastRun.drop()
  await until(() => server.asked("GET /runs/run-0001/stream").length === 2)
  server.lastRun.say("two")
  server.lastRun.finish()
  await reply.end
  expect(reply.text).toBe("one two")
})

test("text that a crashed server has lost is replaced by what it still has", async () => {
  const reply = send()
  await until(() => server.runs.length)
  server.lastRun.say("one ", "two ", "three ")
  await until(() => reply.text === "one two three ")
  server.lastRun.words.length = 2
  server.lastRun.drop()
  server.lastRun.fail("server_restart")
  expect(await reply.end).toMatchObject({
    type: "error",
    code: "server_restart",
    message_id: server.lastRun.id,
  })
  expect(reply.text).toBe("one two ")
})

test("a server that drops every connection before a word ends the reply in connection_lost", async () => {
  const reply = send(makeClient({ limits: { maxDrops: 3 } }))
  await until(() => server.runs.length)
  server.onOpen = (run, reader) => {
    reader.write('data: {"type":"status","phase":"thinking","elapsed_ms":1,"tokens":0}\n\n', () =>
      run.drop("end"),
    )
  }
  server.lastRun.drop("end")
  await expect(reply.end).rejects.toMatchObject({ code: "connection_lost" })
  expect(server.asked("/stream")).toHaveLength(4)
})

test("any number of drops is borne as long as text comes between them", async () => {
  const reply = send(makeClient({ limits: { maxDrops: 1 } }))
  await until(() => server.runs.length)
  for (let word = 0; word < 5; word++) {
    server.lastRun.say(`${word} `)
    await until(() => reply.text.endsWith(`${word} `))
    server.lastRun.drop()
    await until(() => server.lastRun.readers.size === 1)
  }
  server.lastRun.finish()
  expect(await reply.end).toMatchObject({ type: "done" })
  expect(reply.text).toBe("0 1 2 3 4 ")
})

test("a line that dies in the middle is joined anew, and not taken for a proxy's", async () => {
  const reply = send(makeClient({ limits: { probeMs: 15 } }))
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => reply.text === "one ")
  server.lastRun.readers.clear()
  server.lastRun.say("two ")
  await until(() => reply.text === "one two ")
  server.lastRun.say("three")
  server.lastRun.finish()
  await reply.end
  expect(reply.text).toBe("one two three")
  expect(server.asked("/stream").map(({ query }) => query.get("after"))).toEqual([null, "1"])
})

test.each(['{"type":"tok', "null", "7", '{"content":"x"}'])(
  "a damaged frame, %s, is a drop, and the text still comes whole",
  async data => {
    const reply = send()
    await until(() => server.runs.length)
    server.lastRun.say("one ")
    await until(() => reply.text === "one ")
    for (const reader of server.lastRun.readers) reader.write(`id: x:2\ndata: ${data}\n\n`)
    await until(() => server.asked("GET /runs/run-0001/stream").length)
    server.lastRun.say("two")
    server.lastRun.finish()
    await reply.end
    expect(reply.text).toBe("one two")
  },
)

test("a stream that falls silent is joined anew", async () => {
  const reply = send(makeClient({ limits: { silenceMs: 60, probeMs: 30 } }), { transport: "stream" })
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => server.asked("GET /runs/run-0001/stream").length)
  server.lastRun.say("two")
  server.lastRun.finish()
  expect(await reply.end).toMatchObject({ type: "done" })
  expect(reply.text).toBe("one two")
})

test("comment lines keep a stream alive while Claude thinks", async () => {
  const silenceMs = 1_500
  const reply = send(makeClient({ limits: { silenceMs } }), { transport: "stream" })
  await until(() => server.runs.length)
  for (const end = Date.now() + 2 * silenceMs; Date.now() < end; ) {
    for (const reader of server.lastRun.readers) reader.write(": ping\n\n")
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  server.lastRun.finish()
  await reply.end
  expect(server.asked("/stream")).toHaveLength(1)
})

test("where a proxy holds tokens back, the run is found by the asynchronous call and polled", async () => {
  server.holdsBack = true
  const client = makeClient({ limits: { probeMs: 15 } })
  const reply = send(client)
  await until(() => server.runs.length)
  server.lastRun.say("one ", "two ")
  await until(() => reply.text === "one two ")
  expect(server.runs).toHaveLength(1)
  server.lastRun.say("three")
  server.lastRun.finish()
  expect(await reply.end).toMatchObject({ type: "done", message_id: server.lastRun.id })
  expect(reply.text).toBe("one two three")
  expect(new Set(server.requests.filter(({ key }) => key).map(({ key }) => key)).size).toBe(1)

  const streams = server.asked("/stream").length
  const next = send(client)
  await until(() => server.runs.length === 2)
  server.lastRun.say("again")
  server.lastRun.finish()
  await next.end
  expect(next.text).toBe("again")
  expect(server.asked("/stream")).toHaveLength(streams)
})

test("a slow Claude is not taken for a proxy that holds back", async () => {
  const reply = send(makeClient({ limits: { probeMs: 15 } }))
  await until(() => server.runs.length)
  await until(() => server.asked(`GET /runs/${server.lastRun.id}`).length >= 2)
  server.lastRun.say("slowly")
  await until(() => reply.text === "slowly")
  server.lastRun.finish()
  expect(reply.events.some(event => event.type === "reset")).toBe(false)
  await reply.end
})

test("polling tells a failed run as an error, with its partial text", async () => {
  const reply = send(makeClient(), { transport: "poll" })
  await until(() => server.runs.length)
  server.lastRun.say("half")
  server.lastRun.fail()
  expect(await reply.end).toMatchObject({
    type: "error",
    code: "upstream_overloaded",
    message_id: server.lastRun.id,
  })
  expect(reply.text).toBe("half")
})

test("an abort stops listening and leaves the run alone", async () => {
  const controller = new AbortController()
  const reply = send(makeClient(), { signal: controller.signal })
  await until(() => server.runs.length)
  server.lastRun.say("one")
  await until(() => reply.text === "one")
  controller.abort(new Error("enough"))
  await expect(reply.end).rejects.toThrow("enough")
  await until(() => server.lastRun.readers.size === 0)
  expect(server.asked("/cancel")).toHaveLength(0)
})

test("leaving the loop closes the connection", async () => {
  const reply = makeClient().sendMessage("ada", { content: "Hello!" })
  for await (const event of reply) if (event.type === "accepted") break
  await until(() => server.lastRun.readers.size === 0)
})

test("headers are asked for at each call, so that a key can be renewed", async () => {
  let key = "first"
  const client = makeClient({ headers: async () => ({ Authorization: `Bearer ${key}` }) })
  await client.listMessages("ada")
  key = "second"
  await client.listMessages("ada")
  expect(server.requests.map(request => request.headers.authorization)).toEqual([
    "Bearer first",
    "Bearer second",
  ])
})

test("whoever holds the key is told when the server does not accept it, whichever call it was", async () => {
  let refused = 0
  const onUnauthorized = () => {
    refused += 1
  }
  const client = makeClient({ onUnauthorized })
  const body = { code: "unauthorized", detail: "Send a key." }
  server.refusals.push(["/messages", { status: 401, body }])
  await expect(client.listMessages("ada")).rejects.toMatchObject({ code: "unauthorized" })
  await client.listMessages("ada")
  expect(refused).toBe(1)
})

test("any text survives the wire, whatever its code points and wherever the bytes are cut", async () => {
  const odd = "a\u0085b\u2028c\u2029d\u0000e \ud83d\ude80 \u202eabc\r\n\ndata: {}\n\n"
  const reply = send()
  await until(() => server.runs.length)
  server.lastRun.words.push(odd)
  const bytes = Buffer.from(server.lastRun.tokenFrame(0))
  for (const reader of server.lastRun.readers) {
    for (const byte of bytes) {
      reader.write(Buffer.from([byte]))
      await new Promise(resolve => setImmediate(resolve))
    }
  }
  server.lastRun.finish()
  await reply.end
  expect(reply.text).toBe(odd)
})

test("ids are escaped in paths", async () => {
  await expect(makeClient().getRun("ada", "../../x?y")).rejects.toMatchObject({ code: "not_found" })
  expect(server.requests[0]?.path).toBe("/runs/..%2F..%2Fx%3Fy")
})
