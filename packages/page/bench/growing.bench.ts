/** What one long reply costs in Chromium while it grows, by what it consists of: one block that is parsed anew each time. */
import type { Page } from "playwright-core"
import { expect, test } from "vitest"
import { openBrowser } from "../tests/browser.ts"
import { ScriptedPage } from "../tests/scriptedPage.ts"
import { finished } from "../tests/world.ts"

const repeat = (count: number, make: (index: number) => string) =>
  Array.from({ length: count }, (_, i) => make(i))

const SHAPES: Record<string, string[]> = {
  "600 paragraphs": repeat(
    600,
    i => `Paragraph ${i} with **fat** and *slanted* words and \`code\` in it.\n\n`,
  ),
  "a list of 1,000": repeat(1_000, i => `${i + 1}. Item with **fat** and *slanted* words in it.\n`),
  "a table of 500 rows": [
    "| a | b | c |\n|---|---|---|\n",
    ...repeat(500, i => `| ${i} | some *words* | more |\n`),
  ],
  "code of 2,000 lines": [
    "```python\n",
    ...repeat(2_000, i => `value_${i} = compute(${i})  # a line of code\n`),
    "```\n",
  ],
  "one paragraph of 5,000 words": repeat(1_000, i => `word${i} and **some** more *words* `),
}

test("a growing reply", { timeout: 600_000 }, async () => {
  const browser = await openBrowser()
  for (const [name, pieces] of Object.entries(SHAPES)) {
    const scripted = await ScriptedPage.begin()
    const page = await browser.context.newPage()
    await scripted.ask(page)
    await observe(page)
    for (const piece of pieces) {
      scripted.server.lastRun.say(piece)
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    scripted.server.lastRun.finish()
    await finished(page).waitFor()
    const { tasks, frames } = await page.evaluate(
      () => (window as unknown as { seen: { tasks: number[]; frames: number[] } }).seen,
    )
    frames.sort((a, b) => a - b)
    console.log(
      `${name}: longest task ${Math.round(Math.max(0, ...tasks))} ms, ${tasks.length} over 50 ms; ` +
        `p95 between frames ${Math.round(frames[Math.floor(frames.length * 0.95)] ?? 0)} ms`,
    )
    expect(await page.locator(".ss-message").count()).toBe(2)
    await page.close()
    await scripted.end()
  }
  await browser.close()
})

function observe(page: Page): Promise<void> {
  return page.evaluate(() => {
    const seen = { tasks: [] as number[], frames: [] as number[] }
    Object.assign(window, { seen })
    new PerformanceObserver(list => {
      for (const { duration } of list.getEntries()) seen.tasks.push(duration)
    }).observe({ type: "longtask" })
    let last = performance.now()
    const onFrame = (now: number) => {
      seen.frames.push(now - last)
      last = now
      requestAnimationFrame(onFrame)
    }
    requestAnimationFrame(onFrame)
  })
}
