/** Every operation of /openapi.json has its typed call, and each is made once against the real server. */
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import {
  type OperationInput,
  type OperationName,
  type Operations,
  StaffClient,
  type StaffstreamError,
} from "../src/client.ts"
import { hasServer, RealServer } from "./realServer.ts"

/** The operations that stream, and the methods that speak them. */
const STREAMS: Record<Exclude<keyof Operations, OperationName>, keyof StaffClient> = {
  "POST /api/v1/staff/{staff_id}/messages/stream": "sendMessage",
  "POST /api/v1/staff/{staff_id}/messages/{message_id}/regenerate": "regenerate",
  "GET /api/v1/staff/{staff_id}/runs/{run_id}/stream": "joinRun",
  "GET /api/v1/events": "listenLive",
}

describe.skipIf(!hasServer)("operations", () => {
  let server: RealServer
  /** Takes the webhooks. */
  let hook: Server
  let hookHost: string
  let client: StaffClient
  const asked = new Set<string>()

  beforeAll(async () => {
    hook = createServer((_, response) => response.end())
    await new Promise<void>(resolve => hook.listen(0, "127.0.0.1", resolve))
    hookHost = `127.0.0.1:${(hook.address() as AddressInfo).port}`
    server = await RealServer.start("--offline-pace-s", "0", "--webhook-allow-private", hookHost)
    client = new StaffClient({
      baseUrl: server.url,
      fetch: (url, init) => {
        asked.add(`${init?.method} ${new URL(String(url)).pathname}`)
        return fetch(url, init)
      },
    })
  })
  afterAll(async () => {
    hook?.close()
    await server?.stop()
  })

  test("each is called by its name, and answers", async () => {
    const { id: staff_id } = await client.request("POST /api/v1/staff", {
      body: { name: "Ada", webhook_url: `http://${hookHost}/` },
    })
    const staff = { staff_id }
    const ends: unknown[] = []
    const hear = async (events: AsyncIterable<{ type: string }>) => {
      for await (const event of events) if (event.type === "done") ends.push(event)
    }
    const stop = new AbortController()
    await client.listenLive(null, stop.signal, () => undefined)
    await hear(client.sendMessage(staff_id, { content: "My name is Kim and I live in Bergen." }))
    const { messages } = await client.listMessages(staff_id)
    const [reply, question] = messages
    if (!reply || !question) throw new Error("the reply is missing")
    await hear(client.regenerate(staff_id, reply.id))
    await hear(client.joinRun(staff_id, reply.id))
    stop.abort()
    expect(ends).toHaveLength(3)

    const conversation = await client.request("POST /api/v1/staff/{staff_id}/conversations", {
      path: staff,
      body: { title: "Other" },
    })
    const made = await client.request("POST /api/v1/staff/{staff_id}/memories", {
      path: staff,
      body: { text: "Kim likes tea." },
    })
    const memory_id = [made].flat()[0]?.id ?? ""
    const { id: key_id } = await client.request("POST /api/v1/keys", { body: { name: "Kim" } })
    const findDelivery = async () =>
      (await client.request("GET /api/v1/staff/{staff_id}/deliveries", { path: staff }))[0]?.id
    await client.request("POST /api/v1/staff/{staff_id}/messages", {
      path: staff,
      body: { content: "Hello!" },
    })
    await expect.poll(findDelivery).toBeDefined()

    const run = { ...staff, run_id: reply.id }
    const message = { ...staff, message_id: reply.id }
    const talk = { ...staff, conversation_id: conversation.id }
    const memory = { ...staff, memory_id }
    const delivery = { ...staff, delivery_id: (await findDelivery()) as string }
    const job = { job_id: staff_id }
    // What takes things away comes last; those that were called above are not called again.
    const calls: { [Name in OperationName]: OperationInput<Name> | null } = {
      "POST /api/v1/staff": null,
      "GET /api/v1/staff": {},
      "GET /api/v1/staff/{staff_id}": { path: staff },
      "PATCH /api/v1/staff/{staff_id}": { path: staff, body: { role: "Pilot" } },
      "POST /api/v1/staff/{staff_id}/messages": null,
      "GET /api/v1/staff/{staff_id}/messages": { path: staff, query: { limit: 1 } },
      "GET /api/v1/staff/{staff_id}/messages/{message_id}": { path: message },
      "GET /api/v1/staff/{staff_id}/messages/{message_id}/context": { path: message },
      "POST /api/v1/staff/{staff_id}/context": { path: staff, body: { content: "Where do I live?" } },
      "POST /api/v1/staff/{staff_id}/messages/{message_id}/feedback": { path: message, body: { rating: 1 } },
      "GET /api/v1/staff/{staff_id}/runs/{run_id}": { path: run },
      "POST /api/v1/staff/{staff_id}/runs/{run_id}/cancel": { path: run },
      "POST /api/v1/staff/{staff_id}/conversations": null,
      "GET /api/v1/staff/{staff_id}/conversations": { path: staff },
      "GET /api/v1/staff/{staff_id}/conversations/{conversation_id}": { path: talk },
      "PATCH /api/v1/staff/{staff_id}/conversations/{conversation_id}": {
        path: talk,
        body: { title: "New" },
      },
      "GET /api/v1/staff/{staff_id}/memories": { path: staff, query: { query: "tea", kind: "fact" } },
      "POST /api/v1/staff/{staff_id}/memories": null,
      "GET /api/v1/staff/{staff_id}/memories/overview": { path: staff },
      "GET /api/v1/staff/{staff_id}/memories/{memory_id}": { path: memory },
      "PATCH /api/v1/staff/{staff_id}/memories/{memory_id}": { path: memory, body: { pinned: true } },
      "DELETE /api/v1/staff/{staff_id}/memories/{memory_id}": { path: memory },
      "POST /api/v1/staff/{staff_id}/memories/{memory_id}/restore": { path: memory },
      "GET /api/v1/staff/{staff_id}/graph": { path: staff, query: { depth: 2 } },
      "GET /api/v1/staff/{staff_id}/learning": { path: staff },
      "POST /api/v1/staff/{staff_id}/learning": { path: staff },
      "GET /api/v1/staff/{staff_id}/mode": { path: staff },
      "GET /api/v1/staff/{staff_id}/deliveries": { path: staff },
      "GET /api/v1/staff/{staff_id}/deliveries/{delivery_id}": { path: delivery },
      "POST /api/v1/staff/{staff_id}/deliveries/{delivery_id}/redeliver": { path: delivery },
      "GET /api/v1/models": {},
      "GET /api/v1/jobs": {},
      "GET /api/v1/jobs/{job_id}": { path: job },
      "DELETE /api/v1/jobs/{job_id}": { path: job },
      "POST /api/v1/jobs/{job_id}/retry": { path: job },
      "POST /api/v1/keys": null,
      "GET /api/v1/keys": {},
      "DELETE /api/v1/keys/{key_id}": { path: { key_id } },
      "GET /api/v1/me": {},
      "GET /api/v1/me/export": {},
      "GET /healthz": {},
      "GET /readyz": {},
      "GET /metrics": {},
      "GET /openapi.json": {},
      "GET /docs": {},
      "GET /": {},
      "GET /icon.svg": {},
      "DELETE /api/v1/staff/{staff_id}/messages/{message_id}": { path: message },
      "DELETE /api/v1/staff/{staff_id}/conversations/{conversation_id}": { path: talk },
      "DELETE /api/v1/me": {},
      "DELETE /api/v1/staff/{staff_id}": { path: staff },
    }
    const { paths } = (await client.request("GET /openapi.json")) as {
      paths: Record<string, Record<string, unknown>>
    }
    const described = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`),
    )
    expect([...Object.keys(calls), ...Object.keys(STREAMS)].sort()).toEqual(described.sort())

    for (const [name, input] of Object.entries(calls)) {
      if (input === null) continue
      // biome-ignore lint/suspicious/noExplicitAny: each has its own shape, which the table above has seen
      const answer = client.request(name as any, input as any)
      // No job has that id: refused by this very endpoint, in its own words.
      if (name.includes("{job_id}")) await expect(answer, name).rejects.toThrow("There is no job")
      else await answer.catch((thrown: StaffstreamError) => expect.fail(`${name}: ${thrown.message}`))
    }
    const patterns = described.map(
      name => [name, new RegExp(`^${name.replace(/[.]/g, "\\.").replace(/\{\w+\}/g, "[^/]+")}$`)] as const,
    )
    const unasked = patterns.filter(([, pattern]) => ![...asked].some(call => pattern.test(call)))
    expect(unasked.map(([name]) => name)).toEqual([])
  })
})
