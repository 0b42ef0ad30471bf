/**
 * The real server with the stand-in for Claude, on a free port and a database of its own.
 *
 * `STAFFSTREAM` names the command; without it the project's own environment is used. A machine without one leaves
 * these tests out and says so, except in CI, where that is a failure.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

export const serverCommand =
  process.env.STAFFSTREAM ?? fileURLToPath(new URL("../../../.venv/bin/staffstream", import.meta.url))

/** True when there is a server to test against; in CI, always. */
export const hasServer = existsSync(serverCommand) || process.env.CI === "true"

if (!hasServer) {
  console.warn(
    `LEFT OUT: the tests against the real server. Install it (make install) or set STAFFSTREAM to the command.`,
  )
}

export class RealServer {
  url = ""
  readonly #folder: string
  readonly #flags: string[]
  #process: ChildProcess | null = null

  private constructor(folder: string, flags: string[]) {
    this.#folder = folder
    this.#flags = flags
  }

  static async start(...flags: string[]): Promise<RealServer> {
    const server = new RealServer(await mkdtemp(join(tmpdir(), "staffstream-")), flags)
    await server.#run("0")
    return server
  }

  async stop(): Promise<void> {
    await this.#end("SIGTERM")
    await rm(this.#folder, { recursive: true })
  }

  /** Ends it as a power cut does, and starts it again on the same port and file. */
  async crash(): Promise<void> {
    await this.#end("SIGKILL")
    await this.#run(new URL(this.url).port)
  }

  async makeStaff(fields: Record<string, unknown> = {}): Promise<string> {
    const response = await fetch(`${this.url}/api/v1/staff`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: "Ada", role: "Engineer", ...fields }),
    })
    return ((await response.json()) as { id: string }).id
  }

  get database(): string {
    return join(this.#folder, "test.db")
  }

  async #run(port: string): Promise<void> {
    const flags = ["serve", "--offline", "--port", port, "--db", this.database, ...this.#flags]
    const child = spawn(serverCommand, flags, { stdio: ["ignore", "pipe", "pipe"] })
    this.#process = child
    const log: string[] = []
    child.stderr.on("data", (data: Buffer) => log.push(data.toString()))
    this.url = await new Promise<string>((resolve, reject) => {
      createInterface(child.stdout).on("line", line => {
        const url = / on (http:\S+?),?( |$)/.exec(line)?.[1]
        if (url) resolve(url)
      })
      child.on("error", reject)
      child.on("exit", status => reject(new Error(`the server ended with ${status}:\n${log.join("")}`)))
    })
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process
    if (!child || child.exitCode !== null) return
    const ended = new Promise(resolve => child.once("exit", resolve))
    child.kill(signal)
    await ended
  }
}
