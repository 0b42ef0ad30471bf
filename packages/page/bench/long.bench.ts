/**
 * What a conversation of 2,000 messages costs in Chromium: typing beside it, streaming into it, coming back to it.
 *
 * `npm run bench --workspace page` prints the figures; the frontend guide has them, with their machine and date.
 */
import type { Page } from "playwright-core"
import { expect, test } from "vitest"
import { composer, say, World } from "../tests/world.ts"

const MESSAGES = 2_000

/** A reply as they come: some prose, now and then a list, code, a table. */
function makeReply(index: number): string {
  const prose =
    `Reply **${index}**: it rains in Bergen, see [the numbers](https://example.org/${index}). `.repeat(4)
  const parts = [
    prose,
    "1. First\n2. Second\n   - inner",
    `\`\`\`python\ndef rain(day: int) -> bool:\n    return day % ${(index % 9) + 1} != 0\n\`\`\``,
    "| month | rain |\n|---|---|\n| May | 106 |\n| Oct | 271 |",
    `So $a^2 + b_{${index}} = c$.`,
  ]
  return [prose, ...parts.slice(index % 5, (index % 5) + 2)].join("\n\n")
}

const messages = Array.from({ length: MESSAGES }, (_, index) => ({
  message_type: index % 2 ? "assistant" : "user",
  content: index % 2 ? makeReply(index) : `Question number ${index}, which is a line of ordinary length.`,
  created_at: new Date(Date.UTC(2026, 9, 1) + index * 60_000).toISOString(),
}))

test("a long conversation", { timeout: 600_000 }, async () => {
  const world = await World.begin("--offline-pace-s", "0.02")
  const staffId = await world.server.makeStaff({ name: "Ada" })
  const import_ = (title: string, of: unknown[]) =>
    world.call<{ id: string }>("POST", `/staff/${staffId}/conversations`, { title, messages: of })
  const other = await import_("Short", messages.slice(0, 2))
  const long = await import_("Long", messages)
  const page = await world.openPage(`#/${staffId}/${long.id}`, { viewport: { width: 1440, height: 860 } })
  await observe(page)
  await page
    .getByText(`Reply ${MESSAGES - 1}`)
    .first()
    .waitFor()

  const started = Date.now()
  await loadAll(page)
  const loading = { s: (Date.now() - started) / 1000, ...(await take(page)) }

  await page.locator(".ss-latest").click()
  await say(page, "Write a long text of 600 words.")
  await page.locator("[data-status=streaming] .ss-markdown li").first().waitFor()
  await take(page)
  await expect.poll(() => page.locator("[data-status=streaming]").count(), { timeout: 60_000 }).toBe(0)
  const streaming = await take(page)

  const typing = await measureTyping(page)
  await say(page, "Write a long text of 600 words.")
  await page.locator("[data-status=streaming] .ss-markdown li").first().waitFor()
  const typingWhileStreaming = await measureTyping(page)
  await expect.poll(() => page.locator("[data-status=streaming]").count(), { timeout: 60_000 }).toBe(0)

  const switches: number[] = []
  for (let round = 0; round < 5; round++) {
    await page.locator(`.sidebar a[href*="${other.id}"]`).click()
    await page.getByText("Question number 0,").waitFor()
    await page.waitForTimeout(500)
    await take(page)
    switches.push(await measureSwitch(page, long.id))
  }
  const switching = await take(page)
  const memoryMb = await page.evaluate(
    () => (performance as unknown as { memory: { usedJSHeapSize: number } }).memory.usedJSHeapSize / 1e6,
  )
  console.log(
    JSON.stringify(
      {
        loading,
        streaming,
        typing,
        typingWhileStreaming,
        switchBackMs: switches.map(Math.round),
        switching,
        heapMb: Math.round(memoryMb),
        rows: await page.locator(".ss-message").count(),
      },
      null,
      2,
    ),
  )
  await world.end()
})

interface Figures {
  longTasks: number
  longestTaskMs: number
}

/** Collects long tasks; those of Chromium begin at 50 ms. */
function observe(page: Page): Promise<void> {
  return page.evaluate(() => {
    const tasks: number[] = []
    Object.assign(window, { tasks })
    new PerformanceObserver(list => {
      for (const { duration } of list.getEntries()) tasks.push(duration)
    }).observe({ type: "longtask" })
  })
}

/** The long tasks since the last call. */
async function take(page: Page): Promise<Figures> {
  const tasks = await page.evaluate(() => (window as unknown as { tasks: number[] }).tasks.splice(0))
  return { longTasks: tasks.length, longestTaskMs: Math.round(Math.max(0, ...tasks)) }
}

async function loadAll(page: Page): Promise<void> {
  const list = page.locator(".ss-scroll")
  const count = () => page.locator(".ss-message").count()
  for (let known = await count(); known < MESSAGES; known = await count()) {
    await list.evaluate(element => element.scrollTo(0, 0))
    await expect.poll(count, { interval: 10 }).toBeGreaterThan(known)
  }
}

/** From each key to the frame that shows it, in milliseconds; the keys are the browser's own. */
async function measureTyping(page: Page): Promise<Record<"p50" | "p95" | "max", number>> {
  await page.evaluate(() => {
    const times: number[] = []
    Object.assign(window, { times })
    const box = document.querySelector(".ss-composer textarea") as HTMLTextAreaElement
    box.addEventListener("keydown", event => {
      requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - event.timeStamp)))
    })
  })
  await composer(page).pressSequentially("It has rained for weeks, and the cellar is full. ".repeat(3), {
    delay: 20,
  })
  await page.waitForTimeout(200)
  const times = await page.evaluate(() => (window as unknown as { times: number[] }).times)
  await composer(page).fill("")
  times.sort((a, b) => a - b)
  const at = (part: number) => Math.round(10 * (times[Math.floor(part * (times.length - 1))] ?? 0)) / 10
  return { p50: at(0.5), p95: at(0.95), max: at(1) }
}

/** From the click to the frame in which the last message stands. */
function measureSwitch(page: Page, id: string): Promise<number> {
  return page.evaluate(async conversationId => {
    const link = document.querySelector<HTMLElement>(`.sidebar a[href*="${conversationId}"]`)
    const start = performance.now()
    link?.click()
    for (;;) {
      await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)))
      const list = document.querySelector(".ss-scroll")
      const rows = document.querySelectorAll(".ss-message")
      const last = rows[rows.length - 1]?.getBoundingClientRect()
      const edge = list?.getBoundingClientRect()
      if (rows.length > 20 && last && edge && last.top < edge.bottom && last.bottom > edge.top)
        return performance.now() - start
    }
  }, id)
}
