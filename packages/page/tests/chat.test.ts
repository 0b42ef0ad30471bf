import type { Page, Request } from "playwright-core"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { hasServer } from "../../react/tests/realServer.ts"
import { hasBrowser } from "./browser.ts"
import { Host } from "./host.ts"
import { composer, countRequests, finished, growing, lastReply, say, World } from "./world.ts"

const QUESTION = "Tell me what you are and what you can do."

describe.skipIf(!hasServer || !hasBrowser)("the chat in a browser", () => {
  let world: World
  let staffId: string

  beforeAll(async () => {
    world = await World.begin("--offline-pace-s", "0.06")
  })
  afterAll(() => world?.end())
  beforeEach(async () => {
    staffId = await world.server.makeStaff({ name: "Ada" })
  })
  afterEach(async () => {
    await world.closeBrowsers()
    world.checkProblems()
  })

  const open = (options = {}) => world.openPage(`#/${staffId}`, options)
  const savedReply = async () => {
    const messages = await world.call<{ id: string; content: string; status: string }[]>(
      "GET",
      `/staff/${staffId}/messages`,
    )
    return messages[0]
  }
  const plain = (text: string) => text.replace(/\s+/g, " ").trim()

  test("a message is sent, and the tokens of its reply arrive one by one", async () => {
    const page = await open()
    await composer(page).waitFor()
    await page.evaluate(() => {
      const seen: number[] = []
      Object.assign(window, { seen })
      new MutationObserver(() => {
        const text = document.querySelector(".ss-assistant .ss-markdown")?.textContent ?? ""
        if (text.length > (seen.at(-1) ?? 0)) seen.push(text.length)
      }).observe(document.body, { subtree: true, childList: true, characterData: true })
    })
    await say(page, QUESTION)
    await finished(page).waitFor()
    const lengths = await page.evaluate(() => (window as unknown as { seen: number[] }).seen)
    const saved = await savedReply()
    expect(plain(await lastReply(page).innerText())).toBe(plain(saved?.content ?? ""))
    expect(lengths.length).toBeGreaterThan((saved?.content.split(" ").length ?? 0) / 2)
  })

  test("a reload in the middle of a reply shows all of it so far and goes on, without asking again", async () => {
    const page = await open()
    const asked = countRequests(page, "POST", /\/messages/)
    await say(page, QUESTION)
    await growing(page).waitFor()
    const before = await growing(page).innerText()
    await page.reload()
    await growing(page).waitFor()
    expect((await lastReply(page).innerText()).startsWith(before)).toBe(true)
    await finished(page).waitFor()
    const saved = await savedReply()
    expect(saved?.status).toBe("complete")
    expect(plain(await lastReply(page).innerText())).toBe(plain(saved?.content ?? ""))
    expect(asked()).toBe(1)
    expect(await page.locator(".ss-message").count()).toBe(2)
  })

  test("two tabs show one reply as it grows, and each message once", async () => {
    const first = await open()
    const second = await world.openTab(await first.context().newPage(), `#/${staffId}`)
    await composer(second).waitFor()
    const asked = countRequests(second, "POST", /\/messages/)
    await say(first, QUESTION)
    await growing(second).waitFor()
    await finished(first).waitFor()
    await finished(second).waitFor()
    const saved = await savedReply()
    for (const page of [first, second]) {
      expect(plain(await lastReply(page).innerText())).toBe(plain(saved?.content ?? ""))
      expect(await page.locator(".ss-message").count()).toBe(2)
    }
    expect(asked()).toBe(0)
  })

  test("stop ends the reply and keeps what was said; it can be made anew", async () => {
    const page = await open()
    await say(page, QUESTION)
    await growing(page).waitFor()
    await page.getByRole("button", { name: "Stop" }).click()
    await page.getByText("Stopped", { exact: true }).waitFor()
    const saved = await savedReply()
    expect(saved?.status).toBe("cancelled")
    expect(plain(await lastReply(page).innerText())).toBe(plain(saved?.content ?? ""))
    await page.getByRole("button", { name: "Answer again" }).click()
    await growing(page).waitFor()
    await finished(page).waitFor()
    expect((await savedReply())?.status).toBe("complete")
    expect(await page.locator(".ss-message").count()).toBe(2)
  })

  test("going offline in the middle and coming back loses nothing and asks nothing again", async () => {
    const page = await open()
    const asked = countRequests(page, "POST", /\/messages/)
    await say(page, QUESTION)
    await growing(page).waitFor()
    await page.context().setOffline(true)
    world.host.cut()
    await page.getByText(/Connection lost/).waitFor()
    await page.context().setOffline(false)
    await finished(page).waitFor()
    const saved = await savedReply()
    expect(plain(await lastReply(page).innerText())).toBe(plain(saved?.content ?? ""))
    expect(asked()).toBe(1)
  })

  test("a message written offline is sent once when the network is back", async () => {
    const page = await open()
    await composer(page).waitFor()
    await page.context().setOffline(true)
    await say(page, QUESTION)
    await page.getByText(/Connection lost/).waitFor()
    await page.context().setOffline(false)
    await finished(page).waitFor()
    expect(await world.call<unknown[]>("GET", `/staff/${staffId}/messages`)).toHaveLength(2)
  })

  test("what the server refuses comes back into the box, with the reason", async () => {
    const page = await open()
    const text = "word ".repeat(8_000)
    await say(page, text)
    await page
      .getByRole("alert")
      .getByText(/Shorten it/)
      .waitFor()
    await expect.poll(() => composer(page).inputValue()).toBe(text)
    expect(await page.locator(".ss-message").count()).toBe(0)
  })

  test("the list follows the reply unless its reader has scrolled up", async () => {
    const long = Array.from({ length: 60 }, (_, index) => `Line ${index}.`).join("\n\n")
    const messages = [
      { message_type: "user", content: "Count.", created_at: "2026-11-01T10:00:00.000Z" },
      { message_type: "assistant", content: long, created_at: "2026-11-01T10:00:01.000Z" },
    ]
    const { id } = await world.call<{ id: string }>("POST", `/staff/${staffId}/conversations`, {
      title: "Long",
      messages,
    })
    const page = await world.openPage(`#/${staffId}/${id}`)
    await page.getByText("Line 59.").waitFor()
    const fromEnd = () =>
      page.locator(".ss-scroll").evaluate(list => list.scrollHeight - list.scrollTop - list.clientHeight)
    await expect.poll(fromEnd).toBeLessThan(5)
    await say(page, QUESTION)
    await growing(page).waitFor()
    await expect.poll(fromEnd).toBeLessThan(5)
    await page.locator(".ss-scroll").hover()
    await page.mouse.wheel(0, -600)
    await page.getByRole("button", { name: "Jump to the latest message" }).waitFor()
    const place = await page.locator(".ss-scroll").evaluate(list => list.scrollTop)
    await finished(page).waitFor()
    expect(await page.locator(".ss-scroll").evaluate(list => list.scrollTop)).toBeCloseTo(place, -2)
    await page.getByRole("button", { name: "Jump to the latest message" }).click()
    await expect.poll(fromEnd).toBeLessThan(5)
  })

  test("earlier messages come above without moving what one reads", async () => {
    const messages = Array.from({ length: 130 }, (_, index) => ({
      message_type: index % 2 ? "assistant" : "user",
      content: `Message ${index}`,
      created_at: new Date(Date.UTC(2026, 9, 1) + index * 60_000).toISOString(),
    }))
    const { id } = await world.call<{ id: string }>("POST", `/staff/${staffId}/conversations`, {
      title: "Old",
      messages,
    })
    const page = await world.openPage(`#/${staffId}/${id}`)
    await page.getByText("Message 129", { exact: true }).waitFor()
    const count = () => page.locator(".ss-message").count()
    for (const wanted of [100, 130]) {
      // Far enough from the top that nothing loads by itself, and a few frames for the heights of the rows now seen.
      const { id: read, top } = await page.locator(".ss-scroll").evaluate(async list => {
        list.scrollTop = 1200
        for (let frame = 0; frame < 6; frame++) await new Promise(resolve => requestAnimationFrame(resolve))
        const edge = list.getBoundingClientRect().top
        const rows = [...list.querySelectorAll<HTMLElement>(".ss-message")]
        const row = rows.find(candidate => candidate.getBoundingClientRect().bottom > edge)
        const before = { id: row?.dataset.id, top: row?.getBoundingClientRect().top ?? 0 }
        list.querySelector<HTMLElement>(".ss-earlier")?.click()
        return before
      })
      await expect.poll(count).toBe(wanted)
      const place = () => page.locator(`[data-id="${read}"]`).evaluate(row => row.getBoundingClientRect().top)
      await expect.poll(async () => Math.abs((await place()) - top)).toBeLessThan(60)
    }
    expect(await page.getByRole("button", { name: "Earlier messages" }).count()).toBe(0)
  })

  test("the keyboard alone is enough: write, stop, look behind an answer, close it", async () => {
    const page = await open()
    await composer(page).waitFor()
    await expect.poll(() => composer(page).evaluate(box => box === document.activeElement)).toBe(true)
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type(QUESTION)
    await page.keyboard.press("Enter")
    await growing(page).waitFor()
    await page.keyboard.press("Escape")
    await page.getByText("Stopped", { exact: true }).waitFor()
    expect((await page.locator(".ss-bubble").innerText()).split("\n")).toHaveLength(2)
    const reach = async (name: string) => {
      for (let steps = 0; steps < 40; steps++) {
        await page.keyboard.press("Shift+Tab")
        const label = await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))
        if (label === name) return
      }
      throw new Error(`the keyboard never reaches ${name}`)
    }
    await reach("Why this answer")
    await page.keyboard.press("Enter")
    await page.getByText(/of 6,000 tokens/).waitFor()
    await reach("Memory")
    await page.keyboard.press("Space")
    await page.getByRole("complementary", { name: "What Ada knows about you" }).waitFor()
  })

  test("a screen reader hears that an answer begins, and then all of it, not every token", async () => {
    const page = await open()
    await composer(page).waitFor()
    await page.evaluate(() => {
      const heard: string[] = []
      Object.assign(window, { heard })
      const region = document.querySelector(".ss-chat [role=status]")
      new MutationObserver(() => heard.push(region?.textContent ?? "")).observe(region as Element, {
        subtree: true,
        childList: true,
        characterData: true,
      })
    })
    await say(page, QUESTION)
    await finished(page).waitFor()
    const saved = await savedReply()
    const heard = () => page.evaluate(() => (window as unknown as { heard: string[] }).heard)
    await expect.poll(async () => plain((await heard()).at(-1) ?? "")).toBe(plain(saved?.content ?? ""))
    expect(await heard()).toHaveLength(2)
    expect(await page.locator(".ss-scroll [aria-live], .ss-scroll [role=log]").count()).toBe(0)
  })

  test("mounted under a prefix, and with nobody named in the address, the page works all the same", async () => {
    const mounted = await new Host(world.server.url, { prefix: "/deep/ai" }).start()
    const page = await world.openPage(`#/${staffId}`)
    await page.goto(mounted.url)
    await say(page, QUESTION)
    await expect.poll(() => page.locator(".ss-message.ss-assistant").count()).toBeGreaterThan(0)
    await expect.poll(() => page.locator("[data-status=streaming]").count()).toBe(0)
    await finished(page).click()
    await page.getByText(/of 6,000 tokens/).waitFor()
    expect(page.url().startsWith(`${mounted.url}#/-/-/why/`)).toBe(true)
    await world.closeBrowsers()
    world.forgetProblems()
    await mounted.stop()
  })

  test("ratings stay, and a new conversation is called after its first message", async () => {
    const page = await open()
    await say(page, QUESTION)
    await finished(page).waitFor()
    await page.getByRole("button", { name: "Good answer" }).click()
    await page.reload()
    await expect
      .poll(() => page.getByRole("button", { name: "Good answer" }).getAttribute("aria-pressed"))
      .toBe("true")
    await page.getByRole("button", { name: "New conversation" }).click()
    await page.waitForURL(/#\/[^/]+\/new/)
    await page.getByRole("heading", { name: "Talk to Ada" }).waitFor()
    await say(page, "Shall we plan a trip to Voss?")
    await page.getByRole("link", { name: /Shall we plan a trip to Voss/ }).waitFor()
  })

  test("seven tabs share one stream of events, and those out of sight let the streams of their replies go", async () => {
    const slow = await World.begin("--offline-pace-s", "0.2")
    const staffId = await slow.server.makeStaff({ name: "Ada" })
    const first = await slow.openPage(`#/${staffId}/new`)
    const open = new Set<Request>()
    const count = (path: RegExp) => [...open].filter(request => path.test(request.url())).length
    first.context().on("request", request => open.add(request))
    first.context().on("requestfinished", request => open.delete(request))
    first.context().on("requestfailed", request => open.delete(request))
    await first.reload()
    const see = (page: Page, state: "visible" | "hidden") =>
      page.evaluate(value => {
        Object.defineProperty(document, "visibilityState", { value, configurable: true })
        document.dispatchEvent(new Event("visibilitychange"))
      }, state)
    const begin = async (page: Page) => {
      await say(page, "Write a long text of 3000 words.")
      await growing(page).waitFor()
    }
    await begin(first)
    await see(first, "hidden")
    for (let tab = 1; tab < 6; tab++) {
      const page = await slow.openTab(await first.context().newPage(), `#/${staffId}/new`)
      await begin(page)
      await see(page, "hidden")
    }
    await expect.poll(() => count(/\/stream/)).toBe(0)
    const seventh = await slow.openTab(await first.context().newPage(), `#/${staffId}/new`)
    await begin(seventh)
    expect(count(/\/stream/)).toBe(1)
    expect(count(/\/events$/)).toBe(1)
    await seventh.getByRole("button", { name: "Stop" }).click()
    await seventh.getByText("Stopped", { exact: true }).waitFor()
    const known = (await growing(first).innerText()).length
    await see(first, "visible")
    await expect.poll(async () => (await growing(first).innerText()).length).toBeGreaterThan(known + 20)
    await slow.end()
    slow.checkProblems()
  })
})
