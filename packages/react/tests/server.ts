/**
 * A staffstream server in miniature on a real socket, whose replies the test speaks word by word and whose wire it
 * can break: cut, end too early, hold back, damage, refuse. It follows the HTTP contract, nothing more.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import type { Message, RunState } from "../src/types.ts"

export interface Request {
  method: string
  path: string
  query: URLSearchParams
  key: string | null
  headers: IncomingMessage["headers"]
  body: Record<string, unknown>
}

interface Refusal {
  status: number
  body?: Record<string, unknown>
  headers?: Record<string, string>
  isProxy?: boolean
}

/** The making of one reply, in the test's hands. */
export class ScriptedRun {
  state: RunState = "streaming"
  error: { code: string; detail: string; retryable: boolean } | null = null
  readonly words: string[] = []
  readonly readers = new Set<ServerResponse>()
  readonly id: string
  readonly question: Message
  readonly #server: ScriptedServer

  constructor(id: string, question: Message, server: ScriptedServer) {
    this.id = id
    this.question = question
    this.#server = server
  }

  get text(): string {
    return this.words.join("")
  }

  get hasEnded(): boolean {
    return this.state !== "streaming"
  }

  say(...words: string[]): void {
    for (const word of words) {
      this.words.push(word)
      this.#send(this.tokenFrame(this.words.length - 1))
    }
  }

  finish(state: "done" | "cancelled" = "done"): void {
    this.#end(state)
  }

  fail(code = "upstream_overloaded"): void {
    this.error = { code, detail: "Claude is overloaded. Try again soon.", retryable: true }
    this.#end("failed")
  }

  /** Ends every reader's socket without a terminal frame: cleanly, or as a cut cable does. */
  drop(how: "end" | "cut" = "cut"): void {
    for (const reader of this.readers) how === "end" ? reader.end() : reader.socket?.destroy()
    this.readers.clear()
  }

  tokenFrame(index: number): string {
    return `id: ${this.id}:${index + 1}\ndata: ${JSON.stringify({ type: "token", content: this.words[index] })}\n\n`
  }

  endFrame(): string {
    const message_id = this.text === "" ? null : this.id
    if (this.error) return `data: ${JSON.stringify({ type: "error", ...this.error, message_id })}\n\n`
    const cancelled = this.state === "cancelled" ? { cancelled: true } : {}
    const usage = { input_tokens: 10, output_tokens: this.words.length }
    return `data: ${JSON.stringify({ type: "done", message_id, stop_reason: "end_turn", usage, ...cancelled })}\n\n`
  }

  #end(state: RunState): void {
    if (this.hasEnded) return
    this.state = state
    const status = state === "done" ? "complete" : state === "cancelled" ? "cancelled" : "interrupted"
    if (this.text !== "")
      this.#server.save("assistant", this.text, { id: this.id, status, reply_to: this.question.id })
    this.#send(this.endFrame())
    for (const reader of this.readers) reader.end()
    this.readers.clear()
  }

  #send(frame: string): void {
    for (const reader of this.readers) this.#server.write(reader, frame)
  }
}

export class ScriptedServer {
  readonly requests: Request[] = []
  readonly runs: ScriptedRun[] = []
  readonly messages: Message[] = []
  /** Answers for the next requests whose `METHOD path` ends so; each is used once. */
  readonly refusals: [string, Refusal][] = []
  /** A proxy that hands out a stream only when it is complete. */
  holdsBack = false
  /** Called with each new run, before its stream is opened: where a test lets a reply speak by itself. */
  onRun: (run: ScriptedRun) => void = () => undefined
  /** Called with each stream that is opened. */
  onOpen: (run: ScriptedRun, reader: ServerResponse) => void = () => undefined
  readonly #keys = new Map<string, ScriptedRun>()
  readonly #held = new Map<ServerResponse, string[]>()
  readonly #server: Server = createServer((request, response) => void this.#answer(request, response))
  #count = 0

  async start(): Promise<this> {
    await new Promise<void>(resolve => this.#server.listen(0, "127.0.0.1", resolve))
    return this
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** The requests whose `METHOD path` ends so. */
  asked(call: string): Request[] {
    return this.requests.filter(({ method, path }) => `${method} ${path}`.endsWith(call))
  }

  get lastRun(): ScriptedRun {
    const run = this.runs.at(-1)
    if (!run) throw new Error("no run has begun")
    return run
  }

  save(message_type: Message["message_type"], content: string, fields: Partial<Message> = {}): Message {
    const message: Message = {
      id: this.#makeId("message"),
      staff_id: "ada",
      conversation_id: "conversation-1",
      message_type,
      content,
      status: "complete",
      created_at: new Date(1_800_000_000_000 + this.messages.length * 1000).toISOString(),
      ...fields,
    }
    this.messages.push(message)
    return message
  }

  write(response: ServerResponse, frame: string): void {
    if (this.holdsBack) this.#held.get(response)?.push(frame)
    else response.write(frame)
  }

  #makeId(kind: string): string {
    this.#count += 1
    return `${kind}-${String(this.#count).padStart(4, "0")}`
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const request = await readRequest(incoming)
    this.requests.push(request)
    const call = `${request.method} ${request.path}`
    const index = this.refusals.findIndex(([end]) => call.endsWith(end))
    const [, refusal] = index < 0 ? [] : (this.refusals.splice(index, 1)[0] ?? [])
    if (refusal) return refuse(response, refusal)
    const route = routes.find(([pattern]) => pattern.test(call))
    const id = route?.[0].exec(call)?.[1] ?? ""
    if (!route)
      return refuse(response, {
        status: 404,
        body: { code: "not_found", detail: "There is no such thing here." },
      })
    route[1](this, request, response, id)
  }

  begin(request: Request, question: () => Message): ScriptedRun | Refusal {
    const known = request.key === null ? undefined : this.#keys.get(request.key)
    if (known) return known
    const busy = this.runs.find(run => !run.hasEnded)
    if (busy && request.body.multitask_strategy === "interrupt") busy.finish("cancelled")
    else if (busy)
      return { status: 409, body: { code: "conversation_busy", detail: "Busy.", run_id: busy.id } }
    const run = new ScriptedRun(this.#makeId("run"), question(), this)
    if (request.key !== null) this.#keys.set(request.key, run)
    this.runs.push(run)
    this.onRun(run)
    return run
  }

  open(response: ServerResponse, run: ScriptedRun, after: number): void {
    if (after > run.words.length)
      return refuse(response, { status: 400, body: { code: "bad_cursor", detail: "No." } })
    response.writeHead(200, {
      "Content-Type": "text/event-stream",
      "X-Run-Id": run.id,
      "X-User-Message-Id": run.question.id,
      "X-Conversation-Id": "conversation-1",
    })
    if (this.holdsBack) this.#hold(response)
    else response.flushHeaders()
    for (let index = after; index < run.words.length; index++) this.write(response, run.tokenFrame(index))
    run.readers.add(response)
    response.on("close", () => run.readers.delete(response))
    this.onOpen(run, response)
    if (!run.hasEnded) return
    this.write(response, run.endFrame())
    response.end()
  }

  /** Nothing leaves before the end, not even the headers. */
  #hold(response: ServerResponse): void {
    const frames: string[] = []
    this.#held.set(response, frames)
    const end = response.end.bind(response)
    response.end = (() => end(frames.join(""))) as typeof response.end
  }
}

type Handler = (server: ScriptedServer, request: Request, response: ServerResponse, id: string) => void

const askQuestion = (server: ScriptedServer, request: Request) =>
  server.begin(request, () => server.save("user", String(request.body.content)))

const routes: [RegExp, Handler][] = [
  [
    /^POST \/messages\/stream$/,
    (server, request, response) => {
      const run = askQuestion(server, request)
      if (run instanceof ScriptedRun) server.open(response, run, 0)
      else refuse(response, run)
    },
  ],
  [
    /^POST \/messages$/,
    (server, request, response) => {
      const run = askQuestion(server, request)
      if (!(run instanceof ScriptedRun)) return refuse(response, run)
      const accepted = { message_id: run.question.id, run_id: run.id, conversation_id: "conversation-1" }
      sendJson(response, 202, { ...accepted, status: "queued" })
    },
  ],
  [
    /^GET \/messages$/,
    (server, request, response) => {
      const before = request.query.get("before")
      const end = before
        ? server.messages.findIndex(message => message.id === before)
        : server.messages.length
      const limit = Number(request.query.get("limit") ?? 50)
      const page = server.messages.slice(Math.max(0, end - limit), end).reverse()
      if (end > limit) response.setHeader("Link", `<${server.url}?before=x>; rel="next"`)
      sendJson(response, 200, page)
    },
  ],
  [
    /^GET \/messages\/([^/]+)$/,
    (server, _, response, id) => {
      const found = server.messages.find(message => message.id === id)
      sendJson(response, found ? 200 : 404, found ?? {})
    },
  ],
  [
    /^POST \/messages\/([^/]+)\/regenerate$/,
    (server, request, response, id) => {
      const message = server.messages.find(known => known.id === id)
      const question = server.messages.find(known => known.id === (message?.reply_to ?? id))
      if (!question)
        return refuse(response, { status: 404, body: { code: "not_found", detail: "No such message." } })
      const run = server.begin(request, () => question)
      if (run instanceof ScriptedRun) server.open(response, run, 0)
      else refuse(response, run)
    },
  ],
  [/^POST \/messages\/([^/]+)\/feedback$/, (_, __, response) => sendJson(response, 200, {})],
  [
    /^GET \/runs\/([^/]+)$/,
    (server, _, response, id) => {
      const run = server.runs.find(known => known.id === id)
      if (!run) return refuse(response, { status: 404, body: { code: "not_found", detail: "No such run." } })
      const message_id = run.hasEnded && run.text !== "" ? run.id : null
      const fields = { conversation_id: "conversation-1", user_message_id: run.question.id, error: run.error }
      const text = { partial_text: run.text, cursor: run.words.length }
      sendJson(response, 200, { id, state: run.state, message_id, ...text, ...fields })
    },
  ],
  [
    /^GET \/runs\/([^/]+)\/stream$/,
    (server, request, response, id) => {
      const run = server.runs.find(known => known.id === id)
      if (!run) return refuse(response, { status: 404, body: { code: "not_found", detail: "No such run." } })
      server.open(response, run, Number(request.query.get("after") ?? 0))
    },
  ],
  [
    /^POST \/runs\/([^/]+)\/cancel$/,
    (server, _, response, id) => {
      const run = server.runs.find(known => known.id === id)
      run?.finish("cancelled")
      sendJson(response, 200, { id, state: run?.state })
    },
  ],
]

async function readRequest(incoming: IncomingMessage): Promise<Request> {
  const url = new URL(incoming.url ?? "/", "http://server")
  let text = ""
  for await (const chunk of incoming) text += chunk
  return {
    method: incoming.method ?? "",
    path: url.pathname.replace("/api/v1/staff/ada", ""),
    query: url.searchParams,
    key: (incoming.headers["idempotency-key"] as string | undefined) ?? null,
    headers: incoming.headers,
    body: text === "" ? {} : JSON.parse(text),
  }
}

function refuse(response: ServerResponse, { status, body, headers, isProxy }: Refusal): void {
  for (const [name, value] of Object.entries(headers ?? {})) response.setHeader(name, value)
  response.writeHead(status, { "Content-Type": isProxy ? "text/html" : "application/problem+json" })
  response.end(isProxy ? "<h1>Bad gateway</h1>" : JSON.stringify({ title: "Refused", status, ...body }))
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "Content-Type": "application/json" })
  response.end(JSON.stringify(body))
}

/** Waits until a condition holds; the test's own timeout is the limit. */
export async function until(condition: () => unknown): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 2))
}
