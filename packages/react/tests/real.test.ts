import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { StaffClient } from "../src/client.ts"
import { ChatStore } from "../src/store.ts"
import { hasServer, RealServer } from "./realServer.ts"
import { until } from "./server.ts"

describe.skipIf(!hasServer)("against the real server", () => {
  let server: RealServer
  let client: StaffClient
  let staffId: string

  beforeAll(async () => {
    server = await RealServer.start("--offline-pace-s", "0.01")
    client = new StaffClient({ baseUrl: server.url, limits: { backoffMs: 20, pollMs: 20 } })
  })
  afterAll(() => server?.stop())

  async function open(transport: "stream" | "poll" = "stream") {
    staffId = await server.makeStaff()
    return reopen(transport)
  }

  async function reopen(transport: "stream" | "poll" = "stream") {
    const store = new ChatStore(client, staffId, { transport, schedule: callback => setTimeout(callback, 1) })
    const close = store.subscribe(() => undefined)
    await until(() => store.getSnapshot().status !== "loading")
    return { store, close, now: store.getSnapshot }
  }

  test.each(["stream", "poll"] as const)(
    "a reply by %s is the message that the server saved",
    async transport => {
      const { store, close, now } = await open(transport)
      const result = await store.sendMessage("My name is Kim and I live in Bergen. \u2028 🚀")
      expect(result).toMatchObject({ status: "done", error: null })
      const { messages } = await client.listMessages(staffId)
      expect(messages[0]).toMatchObject({ id: result.message?.id, content: result.message?.content })
      expect(now().messages.map(({ id, content }) => [id, content])).toEqual(
        messages.map(({ id, content }) => [id, content]).reverse(),
      )
      close()
    },
  )

  test("stop keeps what was said, here and there", async () => {
    const { store, close, now } = await open()
    const sent = store.sendMessage("Tell me what you are.")
    await until(() => now().status === "streaming")
    await store.stop()
    const result = await sent
    expect(result).toMatchObject({ status: "cancelled" })
    const saved = await client.getMessage(staffId, result.message?.id ?? "")
    expect(saved).toMatchObject({ status: "cancelled", content: result.message?.content })
    close()
  })

  test("leaving in the middle and coming back loses nothing", async () => {
    const first = await open()
    void first.store.sendMessage("Tell me what you are.")
    await until(() => first.now().status === "streaming")
    const runId = first.now().progress?.runId ?? ""
    first.close()
    const second = await reopen()
    const result = await second.store.resume(runId)
    expect(result).toMatchObject({ status: "done" })
    expect(result?.message?.content).toBe((await client.getMessage(staffId, runId)).content)
    second.close()
  })

  test("a reply made anew replaces the old one, here and after reading the page again", async () => {
    const { store, close, now } = await open()
    const first = await store.sendMessage("Tell me what you are.")
    const second = await store.regenerate()
    expect(second).toMatchObject({ status: "done" })
    expect(second.message?.id).not.toBe(first.message?.id)
    expect(now().messages).toHaveLength(2)
    await store.refresh()
    expect(now().messages.map(message => message.id)).toContain(second.message?.id)
    expect(now().messages).toHaveLength(2)
    close()
  })

  test("the same key never sends a message twice, whichever mode it comes by", async () => {
    staffId = await server.makeStaff()
    const options = { idempotencyKey: "one-key" }
    const ends: unknown[] = []
    for (const transport of ["stream", "poll", "stream"] as const) {
      for await (const event of client.sendMessage(staffId, { content: "Once" }, { ...options, transport })) {
        if (event.type === "done") ends.push(event.message_id)
      }
    }
    expect(new Set(ends).size).toBe(1)
    expect(ends).toHaveLength(3)
    expect((await client.listMessages(staffId)).messages).toHaveLength(2)
  })

  test("a refusal carries the server's code and words", async () => {
    const { store, close } = await open()
    const result = await store.sendMessage("word ".repeat(20_000))
    expect(result).toMatchObject({ status: "refused", error: { code: "message_too_long", status: 413 } })
    close()
    await expect(client.listMessages("nobody")).rejects.toMatchObject({ code: "not_found", status: 404 })
  })

  test("a server killed in the middle of a reply ends it as failed, with its partial text, and retry mends it", async () => {
    const { store, close, now } = await open()
    const sent = store.sendMessage("Tell me what you are.")
    await until(() => (now().progress?.tokens ?? 0) > 5)
    await server.crash()
    const result = await sent
    expect(result).toMatchObject({ status: "failed", error: { code: "server_restart", retryable: true } })
    const { messages } = await client.listMessages(staffId)
    expect(now().messages.map(message => message.content)).toEqual(
      messages.map(({ content }) => content).reverse(),
    )
    expect(await store.retry()).toMatchObject({ status: "done" })
    expect(now().messages).toHaveLength(2)
    close()
  })
})
