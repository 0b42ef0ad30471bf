/** The built page on an address of its own, with its security headers, before a real server's API. */
import { readFile } from "node:fs/promises"
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { extname, join, normalize } from "node:path"
import { fileURLToPath } from "node:url"

const page = fileURLToPath(new URL("../../../src/staffstream/page/", import.meta.url))

/** What the server must send with the page; a test below it can only be as strict as this. */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ")

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
  readonly #server: Server = createServer((incoming, response) => void this.#answer(incoming, response))

  constructor(api: string) {
    this.#api = new URL(api)
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
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(incoming.url ?? "/", "http://host")
    if (!pathname.startsWith("/api/")) return this.#sendFile(pathname, response)
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
      response.writeHead(200, {
        "Content-Type": TYPES[extname(path)] ?? "application/octet-stream",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
      })
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
