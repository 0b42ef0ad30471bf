/**
 * An address between the browser and a server, where a test can cut the network and answer for the server.
 *
 * The page comes from the real server, with that server's own headers; before a scripted one, from the built files.
 */
import { readFile } from "node:fs/promises"
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { extname, join, normalize } from "node:path"
import { fileURLToPath } from "node:url"

const page = fileURLToPath(new URL("../../../src/staffstream/page/", import.meta.url))

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
}

export class Host {
  /** Answers of the test's own, by `METHOD path`; undefined leaves the call to the server behind. */
  mock: (call: string, body: unknown) => unknown = () => undefined
  readonly #api: URL
  readonly #servesPage: boolean
  /** Where the server is mounted; the server itself, like one in a host app, does not see it. */
  readonly #prefix: string
  readonly #server: Server = createServer((incoming, response) => void this.#answer(incoming, response))

  constructor(api: string, { servesPage = false, prefix = "" } = {}) {
    this.#prefix = prefix
    this.#api = new URL(api)
    this.#servesPage = servesPage
  }

  async start(): Promise<this> {
    await new Promise<void>(resolve => this.#server.listen(0, "127.0.0.1", resolve))
    return this
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }

  /** Breaks every connection, as a network that went away does. */
  cut(): void {
    this.#server.closeAllConnections()
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${this.#prefix}/`
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = incoming.url ?? "/"
    if (!url.startsWith(`${this.#prefix}/`)) return void response.writeHead(404).end()
    incoming.url = url.slice(this.#prefix.length)
    const { pathname } = new URL(incoming.url, "http://host")
    if (this.#servesPage && !pathname.startsWith("/api/")) return this.#sendFile(pathname, response)
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks)
    const mocked = this.mock(
      `${incoming.method} ${incoming.url}`,
      body.length ? JSON.parse(body.toString()) : null,
    )
    if (mocked === undefined) return this.#forward(incoming, body, response)
    response.writeHead(200, { "Content-Type": "application/json" })
    response.end(JSON.stringify(mocked))
  }

  async #sendFile(pathname: string, response: ServerResponse): Promise<void> {
    const path = join(page, normalize(pathname === "/" ? "/index.html" : pathname))
    try {
      const data = await readFile(path)
      response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" })
      response.end(data)
    } catch {
      response.writeHead(404).end()
    }
  }

  #forward(incoming: IncomingMessage, body: Buffer, response: ServerResponse): void {
    const { hostname, port } = this.#api
    const options = { hostname, port, method: incoming.method, path: incoming.url, headers: incoming.headers }
    const outgoing = request(options, answer => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    outgoing.on("error", () => response.destroy())
    response.on("close", () => outgoing.destroy())
    outgoing.end(body)
  }
}
