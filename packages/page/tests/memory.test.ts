/** The loop that this product is for: say it, see it learned, see it used, correct it there. */
import type { Page } from "playwright-core"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { hasServer } from "../../react/tests/realServer.ts"
import { hasBrowser } from "./browser.ts"
import { finished, say, World } from "./world.ts"

describe.skipIf(!hasServer || !hasBrowser)("memory in the talk", () => {
  let world: World
  let staffId: string

  beforeAll(async () => {
    world = await World.begin("--offline-pace-s", "0.002")
  })
  afterAll(() => world?.end())
  beforeEach(async () => {
    staffId = await world.server.makeStaff({ name: "Ada" })
  })
  afterEach(async () => {
    await world.closeBrowsers()
    world.checkProblems()
  })

  const listTexts = async (query: string) =>
    (await world.call<{ text: string }[]>("GET", `/staff/${staffId}/memories?${query}`)).map(
      ({ text }) => text,
    )

  async function tellAndLearn(text: string): Promise<Page> {
    const page = await world.openPage(`#/${staffId}`)
    await say(page, text)
    await finished(page).waitFor()
    await page.getByText("2 messages are not learned from yet.").waitFor()
    await page.getByRole("button", { name: "Learn now" }).click()
    await page.locator(".learned").first().waitFor()
    return page
  }

  test("what was said is seen learned, seen used, and corrected there", async () => {
    const page = await tellAndLearn("I live in Hamburg.")
    const learned = page.locator(".learned").first()
    expect(await learned.innerText()).toMatch(/Learned:\s*lives in Hamburg · Undo/)
    await page.getByRole("button", { name: "New conversation" }).click()
    await say(page, "Where do I live?")
    await page.getByRole("button", { name: /^From \d fact/ }).click()
    const card = page.locator(".used .item", { hasText: "lives in Hamburg" }).first()
    await card.getByRole("button", { name: "Where it comes from" }).click()
    await card.locator("blockquote", { hasText: "I live in Hamburg" }).waitFor()
    await card.getByRole("button", { name: "Edit" }).click()
    const text = card.getByRole("textbox", { name: "What is remembered" })
    await text.fill((await text.inputValue()).replace("Hamburg", "Bergen"))
    await page.locator(".used .item").getByRole("button", { name: "Save" }).click()
    await page.locator(".used .item", { hasText: "lives in Bergen" }).first().waitFor()
    expect(await listTexts("kind=fact&current=true")).toEqual([expect.stringContaining("lives in Bergen")])
    await page.locator(".used").getByRole("button", { name: "Jump to the message" }).click()
    await page.locator(".ss-message[data-shown]", { hasText: "I live in Hamburg." }).waitFor()
    await page.getByRole("button", { name: "lives in Bergen" }).waitFor()
    await page.getByRole("button", { name: "Graph" }).click()
    const sentences = page.getByRole("complementary", { name: "Graph" }).locator(".item")
    await sentences.filter({ hasText: "lives in Bergen" }).waitFor()
    expect(await sentences.filter({ hasText: "Hamburg" }).count()).toBe(0)
  })

  test("what was learned is taken back at once, and had back", async () => {
    const page = await tellAndLearn("I live in Hamburg.")
    const learned = page.locator(".learned").first()
    await learned.getByRole("button", { name: "Undo" }).click()
    await learned.getByText("Forgotten:").waitFor()
    expect(await listTexts("kind=fact")).toEqual([])
    await learned.getByRole("button", { name: "Bring it back" }).click()
    await learned.getByRole("button", { name: "Undo" }).waitFor()
    expect(await listTexts("kind=fact")).toHaveLength(1)
  })

  test("forgetting says what it takes: the memory alone, or the message too", async () => {
    const page = await tellAndLearn("I live in Hamburg.")
    await page.getByRole("button", { name: "lives in Hamburg" }).click()
    const card = page.locator(".learned .item")
    await card.getByRole("button", { name: "Forget", exact: true }).click()
    await card.getByText("The message stays in the conversation").waitFor()
    await card.getByText("are erased for good").waitFor()
    await card.getByRole("button", { name: "Forget it and erase the message" }).click()
    await expect.poll(() => page.locator(".ss-message").count()).toBe(0)
    expect(await listTexts("")).toEqual([])
  })

  test("one jumps to the very message, however far back, in its place", async () => {
    const messages = Array.from({ length: 300 }, (_, index) => ({
      message_type: index % 2 ? "assistant" : "user",
      content: index === 40 ? "My locker has the number 88." : `Message ${index}`,
      created_at: new Date(Date.UTC(2026, 9, 1) + index * 60_000).toISOString(),
    }))
    await world.call("POST", `/staff/${staffId}/conversations`, { title: "Long ago", messages })
    const page = await world.openPage(`#/${staffId}/-/memory`)
    const panel = page.getByRole("complementary", { name: "What Ada knows about you" })
    await panel.getByRole("button", { name: "Messages 300" }).click()
    await panel.getByRole("searchbox").fill("number of my locker")
    const item = panel.locator(".item", { hasText: "locker" })
    await item.getByRole("button", { name: "Where it comes from" }).click()
    await item.getByRole("button", { name: "Jump to the message" }).click()
    const row = page.locator(".ss-message", { hasText: "My locker has the number 88." })
    await page.locator(".ss-message[data-shown]", { hasText: "My locker" }).waitFor()
    await expect.poll(() => row.evaluate(isInView)).toBe(true)
    await expect.poll(() => row.evaluate(element => document.activeElement === element)).toBe(true)
    const around = await row.evaluate(element => [
      element.previousElementSibling?.textContent,
      element.nextElementSibling?.textContent,
    ])
    expect(around.map(text => text?.match(/Message \d+/)?.[0])).toEqual(["Message 39", "Message 41"])
    expect(page.url()).not.toContain("/-/-/")
  })

  test("facts are grouped, counted and paged; what was forgotten is found and brought back", async () => {
    await world.call("POST", `/staff/${staffId}/memories`, facts(45))
    const [first] = await world.call<{ id: string }[]>("GET", `/staff/${staffId}/memories?limit=1`)
    await world.call("PATCH", `/staff/${staffId}/memories/${first?.id}`, { pinned: true })
    const page = await world.openPage(`#/${staffId}/-/memory`)
    const panel = page.getByRole("complementary", { name: "What Ada knows about you" })
    await panel.getByRole("button", { name: "Facts 45" }).waitFor()
    await panel.getByRole("heading", { name: "General 45" }).waitFor()
    await expect.poll(() => panel.locator(".item").count()).toBe(20)
    expect(await panel.locator(".item").first().getAttribute("data-pinned")).toBe("true")
    await panel.getByRole("button", { name: "Show more" }).click()
    await expect.poll(() => panel.locator(".item").count()).toBe(40)
    await panel.locator(".item").nth(1).getByRole("button", { name: "Forget" }).click()
    await panel.getByRole("button", { name: "Facts 44" }).waitFor()
    await panel.getByRole("button", { name: "Forgotten 1" }).click()
    await panel.getByRole("searchbox").fill("Nothing like it")
    await panel.getByText("Nothing that fits.").waitFor()
    await panel.getByRole("searchbox").fill("FACT number")
    await panel.getByRole("button", { name: "Bring it back" }).click()
    await panel.getByRole("button", { name: "Forgotten 0" }).waitFor()
  })
})

const facts = (count: number) =>
  Array.from({ length: count }, (_, index) => ({ text: `Fact number ${index}.` }))

function isInView(element: Element): boolean {
  const [row, list] = [element, element.closest(".ss-scroll") as Element].map(each =>
    each.getBoundingClientRect(),
  )
  return row !== undefined && list !== undefined && row.top >= list.top && row.bottom <= list.bottom
}
