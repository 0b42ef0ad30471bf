/** The page before a scripted server, whose replies a test says piece by piece. */
import type { Page } from "playwright-core"
import { ScriptedServer, until } from "../../react/tests/server.ts"
import { Host } from "./host.ts"
import { composer, say } from "./world.ts"

export class ScriptedPage {
  readonly server: ScriptedServer
  readonly #host: Host

  private constructor(server: ScriptedServer, host: Host) {
    this.server = server
    this.#host = host
  }

  static async begin(): Promise<ScriptedPage> {
    const server = await new ScriptedServer().start()
    const host = await new Host(server.url, { servesPage: true }).start()
    host.mock = call => {
      if (call === "GET /api/v1/staff")
        return [{ id: "ada", name: "Ada", role: "", persona: "", memory_enabled: true }]
      return call.includes("/conversations") ? [] : undefined
    }
    return new ScriptedPage(server, host)
  }

  async end(): Promise<void> {
    await this.#host.stop()
    await this.server.stop()
  }

  /** Send a message from the page; the server has begun to answer it. */
  async ask(page: Page): Promise<void> {
    await page.goto(this.#host.url)
    await composer(page).waitFor()
    await say(page, "Hello!")
    await until(() => this.server.runs.length)
  }
}
