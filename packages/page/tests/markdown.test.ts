/** What a reply looks like while it grows, and what its drawing fetches. */
import type { Page } from "playwright-core"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { type ScriptedServer, until } from "../../react/tests/server.ts"
import { type Browser, hasBrowser, openBrowser } from "./browser.ts"
import { ScriptedPage } from "./scriptedPage.ts"
import { finished, lastReply, say } from "./world.ts"

const REPLY = `See **the *very* numbers** and [the rain in Bergen](https://example.org/rain), ~~not~~ \`bryggen\`.

## A heading

1. It *rains* a lot.
2. A second one, __so__.

- [x] bought
- [ ] cooked

| month | rain, mm |
|:------|---------:|
| May | 106 |

> A quote of **somebody**.

![a map](https://example.org/map.png) It holds that $a^2 + b_1 = c$.[^1]

\`\`\`python
def f(): return 1
\`\`\`

[^1]: In *Bergen*.
`

describe.skipIf(!hasBrowser)("a growing reply", () => {
  let server: ScriptedServer
  let scripted: ScriptedPage
  let browser: Browser
  const fetched: string[] = []

  beforeAll(async () => {
    browser = await openBrowser()
    browser.context.on("request", request => fetched.push(new URL(request.url()).pathname))
  })
  afterAll(() => browser?.close())
  beforeEach(async () => {
    scripted = await ScriptedPage.begin()
    server = scripted.server
  })
  afterEach(() => scripted.end())

  async function ask(): Promise<Page> {
    const page = await browser.context.newPage()
    await scripted.ask(page)
    return page
  }

  test("colours and formulas are fetched with the first message that needs them, and not before", async () => {
    const page = await ask()
    const isExtra = (path: string) => /\/assets\/(?!index-).*\.js$/.test(path)
    server.lastRun.say("A **plain** reply with `code` in its line, and a price of $5.")
    server.lastRun.finish()
    await finished(page).waitFor()
    await page.waitForLoadState("networkidle")
    expect(fetched.filter(isExtra)).toEqual([])
    await say(page, "And in code?")
    await until(() => server.runs.length === 2)
    server.lastRun.say("```python\ndef f(): return 1\n```\n")
    server.lastRun.finish()
    await page.locator(".ss-code-keyword").first().waitFor()
    expect(fetched.filter(isExtra)).toHaveLength(1)
    await say(page, "And as a formula?")
    await until(() => server.runs.length === 3)
    server.lastRun.say("$a^2$")
    server.lastRun.finish()
    await page.locator(".ss-math math").waitFor()
    expect(fetched.filter(isExtra)).toHaveLength(2)
    await page.close()
  })

  test("no mark of Markdown is ever seen, at whichever character it stands", async () => {
    const page = await ask()
    await page.evaluate(() => {
      const seen = new Set<string>()
      Object.assign(window, { seen })
      new MutationObserver(() => {
        const reply = document
          .querySelector("[data-status=streaming] .ss-markdown")
          ?.cloneNode(true) as Element
        // Code and formulas keep their signs.
        for (const part of reply?.querySelectorAll(".ss-code, .ss-math, code") ?? []) part.remove()
        seen.add(reply?.textContent ?? "")
      }).observe(document.querySelector(".ss-list") as Element, {
        subtree: true,
        childList: true,
        characterData: true,
      })
    })
    for (const char of REPLY) {
      server.lastRun.say(char)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    const seen = await page.evaluate(() => [...(window as unknown as { seen: Set<string> }).seen])
    expect(seen.length).toBeGreaterThan(REPLY.length / 3)
    const raw = seen.filter(text =>
      /[*_~`|[\]#$>^]|\]\(|https?:|:-|-:|^\s*[-+]\s*$|\n\s*[-+\d]+\.?\s*$/.test(text),
    )
    expect(raw.map(text => text.slice(-60))).toEqual([])
    server.lastRun.finish()
    await finished(page).waitFor()
    expect(await lastReply(page).innerText()).toContain("the very numbers and the rain in Bergen")
    await page.close()
  })
})
