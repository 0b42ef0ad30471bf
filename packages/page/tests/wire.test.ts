import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { type ScriptedServer, until } from "../../react/tests/server.ts"
import { type Browser, hasBrowser, openBrowser } from "./browser.ts"
import { ScriptedPage } from "./scriptedPage.ts"
import { finished, lastReply } from "./world.ts"

describe.skipIf(!hasBrowser)("a browser on a bad wire", () => {
  let server: ScriptedServer
  let scripted: ScriptedPage
  let browser: Browser

  beforeAll(async () => {
    browser = await openBrowser()
  })
  afterAll(() => browser?.close())
  beforeEach(async () => {
    scripted = await ScriptedPage.begin()
    server = scripted.server
  })
  afterEach(() => scripted.end())

  async function ask() {
    const page = await browser.context.newPage()
    await scripted.ask(page)
    return { page, run: server.lastRun }
  }

  test("10,000 tokens are all drawn, at most once a frame, and only where the reply grows", async () => {
    const { page, run } = await ask()
    await page.evaluate(() => {
      const counts = { frames: 0, drawings: 0, elsewhere: 0 }
      Object.assign(window, { counts })
      const frame = () => {
        counts.frames += 1
        requestAnimationFrame(frame)
      }
      requestAnimationFrame(frame)
      new MutationObserver(records => {
        counts.drawings += 1
        if (records.some(({ target }) => (target as Node).parentElement?.closest(".ss-user")))
          counts.elsewhere += 1
      }).observe(document.querySelector(".ss-list") as Element, {
        subtree: true,
        childList: true,
        characterData: true,
      })
    })
    for (let word = 0; word < 10_000; word += 50) {
      run.say(
        ...Array.from(
          { length: 50 },
          (_, index) => `word-${word + index}${index % 25 === 24 ? "\n\n" : " "}`,
        ),
      )
      await new Promise(resolve => setTimeout(resolve, 4))
    }
    run.finish()
    await finished(page).waitFor()
    const { frames, drawings, elsewhere } = await page.evaluate(
      () => (window as unknown as { counts: { frames: number; drawings: number; elsewhere: number } }).counts,
    )
    console.log(`10,000 tokens: ${drawings} drawings in ${frames} frames`)
    expect(drawings).toBeLessThanOrEqual(frames + 2)
    expect(elsewhere).toBe(0)
    expect((await lastReply(page).innerText()).match(/word-\d+/g)).toHaveLength(10_000)
    await page.close()
  })

  test("a stream that ends without its terminal frame is joined again, not taken for the end", async () => {
    const { page, run } = await ask()
    run.say("One ", "two ")
    await page.getByText("One two").waitFor()
    run.drop("end")
    run.say("three.")
    await page.getByText("One two three.").waitFor()
    expect(await page.getByRole("button", { name: "Stop" }).count()).toBe(1)
    run.finish()
    await finished(page).waitFor()
    expect(server.asked("POST /messages/stream")).toHaveLength(1)
    await page.close()
  })

  test("where a proxy holds the stream back, the text still comes while it is made", async () => {
    server.holdsBack = true
    const { page, run } = await ask()
    run.say("Held ", "back ")
    await page.getByText("Held back").waitFor()
    expect(run.hasEnded).toBe(false)
    run.say("no more.")
    run.finish()
    await page.locator(".ss-list").getByText("Held back no more.").waitFor()
    await finished(page).waitFor()
    expect(server.messages.filter(message => message.message_type === "user")).toHaveLength(1)
    await page.close()
  })

  test("an error in the stream is said in the server's words, and trying again asks for the same message", async () => {
    const { page, run } = await ask()
    run.say("Half ")
    await page.getByText("Half").waitFor()
    run.fail()
    const alert = page.getByRole("alert")
    await alert.getByText("Claude is overloaded. Try again soon.").waitFor()
    await page.getByText("Broke off").waitFor()
    await alert.getByRole("button", { name: "Try again" }).click()
    await until(() => server.runs.length === 2)
    server.lastRun.say("All of it.")
    server.lastRun.finish()
    await page.locator(".ss-list").getByText("All of it.").waitFor()
    expect(await alert.isVisible()).toBe(false)
    expect(await page.locator(".ss-message").count()).toBe(2)
    await page.close()
  })
})
