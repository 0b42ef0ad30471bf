/** What a test of the page lives in: the server, the page before it, and a browser that is watched. */
import type { BrowserContextOptions, Page } from "playwright-core"
import { expect } from "vitest"
import { RealServer } from "../../react/tests/realServer.ts"
import { type Browser, openBrowser } from "./browser.ts"
import { Host } from "./host.ts"

export class World {
  readonly server: RealServer
  readonly host: Host
  readonly #browsers: Browser[] = []
  /** Everything the browser complained of, and every address outside that it asked for. */
  readonly #problems: string[] = []

  private constructor(server: RealServer, host: Host) {
    this.server = server
    this.host = host
  }

  static async begin(...flags: string[]): Promise<World> {
    const server = await RealServer.start(...flags)
    return new World(server, await new Host(server.url).start())
  }

  async end(): Promise<void> {
    await this.closeBrowsers()
    await this.host.stop()
    await this.server.stop()
  }

  async closeBrowsers(): Promise<void> {
    for (const browser of this.#browsers.splice(0)) await browser.close()
  }

  /** Fails the test when the page broke its security policy, asked for something outside, or threw. */
  checkProblems(): void {
    expect(this.#problems.splice(0)).toEqual([])
  }

  /** For a test that provoked them. */
  forgetProblems(): void {
    this.#problems.length = 0
  }

  async openPage(path = "", options: BrowserContextOptions = {}): Promise<Page> {
    const browser = await openBrowser(options)
    this.#browsers.push(browser)
    browser.context.on("request", request => {
      if (new URL(request.url()).origin !== new URL(this.host.url).origin) this.#problems.push(request.url())
    })
    return this.openTab(await browser.context.newPage(), path)
  }

  /** Another page of the same browser. */
  async openTab(page: Page, path = ""): Promise<Page> {
    page.on("pageerror", error => this.#problems.push(String(error)))
    page.on("dialog", dialog => this.#problems.push(`a dialog: ${dialog.message()}`))
    page.on("console", message => {
      // Chromium reports each refused or failed request here; what the page does about those is what tests look at.
      if (message.type() === "error" && !/Failed to load resource/.test(message.text())) {
        this.#problems.push(message.text())
      }
    })
    await page.goto(this.host.url + path)
    return page
  }

  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await fetch(`${this.server.url}/api/v1${path}`, {
      method,
      ...(body !== undefined && {
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      }),
    })
    return (await response.json()) as T
  }
}

export const composer = (page: Page) => page.getByRole("textbox", { name: /^Write to/ })
export const lastReply = (page: Page) => page.locator(".ss-message.ss-assistant .ss-markdown").last()
export const growing = (page: Page) =>
  page.locator(".ss-message[data-status=streaming] .ss-markdown p").first()
export const finished = (page: Page) => page.getByRole("button", { name: "Why this answer" }).last()

export async function say(page: Page, text: string): Promise<void> {
  await composer(page).fill(text)
  await composer(page).press("Enter")
}

/** How often the page asked for this. */
export function countRequests(page: Page, method: string, path: RegExp): () => number {
  let count = 0
  page.on("request", request => {
    if (request.method() === method && path.test(new URL(request.url()).pathname)) count += 1
  })
  return () => count
}
