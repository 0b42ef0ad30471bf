/** What a user stumbled over once: each stays mended. */
import { execFileSync } from "node:child_process"
import type { Page } from "playwright-core"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { hasServer, serverCommand } from "../../react/tests/realServer.ts"
import { hasBrowser } from "./browser.ts"
import { HOST_STYLES } from "./hostStyles.ts"
import { composer, countRequests, finished, growing, lastReply, say, World } from "./world.ts"

const QUESTION = "Tell me what you are and what you can do."

describe.skipIf(!hasServer || !hasBrowser)("faults", () => {
  let world: World
  let staffId: string

  beforeAll(async () => {
    world = await World.begin("--offline-pace-s", "0.04")
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
  const importReply = async (content: string) => {
    const at = "2026-11-01T10:00:00.000Z"
    const messages = [
      { message_type: "user", content: "Go on.", created_at: at },
      { message_type: "assistant", content, created_at: at },
    ]
    const body = { title: "Past", messages }
    const { id } = await world.call<{ id: string }>("POST", `/staff/${staffId}/conversations`, body)
    const page = await world.openPage(`#/${staffId}/${id}`)
    await finished(page).waitFor()
    return page
  }

  test("opening Why leaves the buttons where they are", async () => {
    const page = await open({ viewport: { width: 1440, height: 860 } })
    await page.getByText("A stand-in answers here").waitFor()
    await say(page, "Hello!")
    const box = await finished(page).boundingBox()
    await finished(page).click()
    await page.getByText(/of 6,000 tokens/).waitFor()
    expect(await finished(page).boundingBox()).toEqual(box)
  })

  test("Enter that ends a composed word sends nothing, in Safari's order of events either", async () => {
    const page = await open()
    const asked = countRequests(page, "POST", /\/messages/)
    await composer(page).fill("にほん")
    await composer(page).evaluate(box =>
      box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", keyCode: 229, bubbles: true })),
    )
    expect(await composer(page).inputValue()).toBe("にほん")
    expect(asked()).toBe(0)
  })

  test("a browser's translation cannot freeze a growing reply", async () => {
    const page = await open()
    await say(page, QUESTION)
    await growing(page).waitFor()
    const markdown = page.locator(".ss-message[data-status=streaming] .ss-markdown")
    expect(await markdown.getAttribute("translate")).toBe("no")
    await markdown.evaluate(element => element.setAttribute("data-old", ""))
    await finished(page).waitFor()
    expect(await lastReply(page).getAttribute("data-old")).toBeNull()
    expect(await lastReply(page).getAttribute("translate")).toBeNull()
  })

  test("with storage blocked the page works", async () => {
    const page = await open()
    await page.addInitScript(() => {
      for (const name of ["localStorage", "sessionStorage"])
        Object.defineProperty(window, name, {
          get() {
            throw new DOMException("Forbidden", "SecurityError")
          },
        })
      // Locks go with the storage.
      LockManager.prototype.request = () => Promise.reject(new DOMException("Forbidden", "SecurityError"))
    })
    await page.reload()
    await say(page, "Hello!")
    await finished(page).waitFor()
    await world.call("POST", `/staff/${staffId}/conversations`, { title: "From elsewhere" })
    await page.getByRole("link", { name: /From elsewhere/ }).waitFor()
  })

  test("a key that cannot be sent, and one that was revoked, lead to the form", async () => {
    const locked = await World.begin("--auth", "keys")
    const keys = (...words: string[]) =>
      execFileSync(serverCommand, ["keys", ...words, "--db", locked.server.database], { encoding: "utf8" })
    const last = (text: string) => text.trim().split("\n").at(-1) ?? ""
    const admin = last(keys("create", "Boss", "--role", "admin"))
    const member = last(keys("create", "Kim", "--role", "member"))
    const call = async <T>(method: string, path: string, body?: unknown) => {
      const response = await fetch(`${locked.server.url}/api/v1${path}`, {
        method,
        headers: { Authorization: `Bearer ${admin}`, "Content-Type": "application/json" },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      return (await response.json()) as T
    }
    await call("POST", "/staff", { name: "Ada" })
    const page = await locked.openPage()
    const field = page.getByLabel("Key", { exact: true })
    await field.fill("ключ")
    await page.getByText("A key has Latin letters").waitFor()
    expect(await page.getByRole("button", { name: "Enter" }).isDisabled()).toBe(true)
    await field.fill(member)
    await page.getByRole("button", { name: "Enter" }).click()
    await composer(page).waitFor()
    await expect.poll(() => page.getByRole("button", { name: /New staff|Edit Ada/ }).count()).toBe(0)
    const { id } = (await call<{ id: string; name: string }[]>("GET", "/keys")).find(
      key => key.name === "Kim",
    ) ?? { id: "" }
    await call("DELETE", `/keys/${id}`)
    await page.getByText("The server does not accept this key.").waitFor()
    await field.fill(admin)
    await page.getByRole("button", { name: "Enter" }).click()
    await page.getByRole("button", { name: "New staff member" }).waitFor()
    await locked.end()
    locked.checkProblems()
  })

  test("where the page itself fails there are words and a way on, not a white page", async () => {
    world.host.mock = call => (call === "GET /api/v1/staff" ? [{ id: "broken" }] : undefined)
    const page = await open()
    await page.getByRole("heading", { name: "This page has failed" }).waitFor()
    world.host.mock = () => undefined
    await page.getByRole("button", { name: "Load it again" }).click()
    await composer(page).waitFor()
    world.forgetProblems()
  })

  test("what could not be reached is asked for again when the server is back", async () => {
    await world.call("POST", `/staff/${staffId}/memories`, { text: "Kim likes tea." })
    const page = await open()
    await composer(page).waitFor()
    await page.context().setOffline(true)
    await page.getByRole("button", { name: "Memory" }).click()
    await page.getByText("The server cannot be reached.").first().waitFor()
    await page.context().setOffline(false)
    await page.getByText("Kim likes tea.").waitFor()
    await expect.poll(() => page.getByText("The server cannot be reached.").count()).toBe(0)
  })

  test("lists, quotes and tables in right-to-left text have their marks and columns on the right", async () => {
    const page = await importReply("* ראשון\n  * שני\n\n> ציטוט\n\n| א | ב |\n|---|---|\n| 1 | 2 |")
    const directions = await lastReply(page).evaluate(element =>
      ["ul", "li", "blockquote", "table"].map(
        tag => getComputedStyle(element.querySelector(tag) as Element).direction,
      ),
    )
    expect(directions).toEqual(["rtl", "rtl", "rtl", "rtl"])
    const marks = await lastReply(page).evaluate(element =>
      [...element.querySelectorAll("ul")].map(list => getComputedStyle(list).listStyleType),
    )
    expect(marks).toEqual(["disc", "circle"])
  })

  test("the numbers of a long list are not cut off", async () => {
    const lines = Array.from({ length: 1000 }, (_, index) => `${index + 1}. item`)
    const page = await importReply(lines.join("\n"))
    const { room, needed } = await lastReply(page).evaluate(element => {
      const list = element.querySelector("ol") as HTMLElement
      const probe = document.createElement("span")
      probe.textContent = "1000. "
      probe.style.whiteSpace = "pre"
      element.append(probe)
      return {
        room: Number.parseFloat(getComputedStyle(list).paddingInlineStart),
        needed: probe.getBoundingClientRect().width,
      }
    })
    expect(room).toBeGreaterThanOrEqual(needed)
  })

  test("a message that is remembered is shown without the marks of its Markdown", async () => {
    const page = await importReply(
      "It **rains**, see [the numbers](https://example.org).\n\n## Why\n\n* hills",
    )
    await page.getByRole("button", { name: "Memory" }).click()
    await page.getByRole("button", { name: /^Messages/ }).click()
    const item = page.locator(".panel .item", { hasText: "rains" })
    await item.waitFor()
    expect(await item.locator("p").first().innerText()).toBe("It rains, see the numbers. Why hills")
  })

  test("a host's own styles do not reach into the chat", async () => {
    const page = await importReply(
      "**b** *i* ~~s~~ `c` [l](https://x.org)[^1]\n\n## H\n\n* a\n  * b\n\n1. x\n\n> q\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n\n" +
        "```py\nx = 1\n```\n\n- [x] t\n\n[^1]: n",
    )
    await page.locator(".ss-code-number").waitFor()
    const changed = await page.evaluate(hostStyles => {
      // These are the host's own.
      for (const actions of document.querySelectorAll<HTMLElement>(".actions")) actions.style.display = "none"
      const own =
        ".ss-message, .ss-bubble, .ss-bubble *, .ss-markdown, .ss-markdown *, .ss-composer, .ss-composer *"
      const read = () =>
        [...document.querySelectorAll(own)].map(element => {
          const style = getComputedStyle(element)
          return [...style].map(name => `${element.tagName} ${name}: ${style.getPropertyValue(name)}`)
        })
      const before = read()
      const sheet = new CSSStyleSheet()
      sheet.replaceSync(hostStyles)
      document.adoptedStyleSheets = [sheet]
      return read().flatMap((lines, index) => lines.filter((line, at) => line !== before[index]?.[at]))
    }, HOST_STYLES)
    expect(changed).toEqual([])
  })

  test("focus goes on to what undoes Forget, and back to writing when a panel closes", async () => {
    await world.call("POST", `/staff/${staffId}/memories`, { text: "Kim likes tea." })
    const page = await world.openPage(`#/${staffId}/-/memory`)
    await page.getByRole("button", { name: "Forget", exact: true }).click()
    await page.getByText(/not learned again/).waitFor()
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label"))
    await expect.poll(focused).toBe("Bring it back")
    await page.getByRole("button", { name: "Close the panel" }).click()
    await expect.poll(focused).toMatch(/^Write to/)
  })

  test("focus stays where one works, whatever is pressed and goes", async () => {
    const at = "2026-11-01T10:00:00.000Z"
    const messages = [{ message_type: "user", content: "I have a boat.", created_at: at }]
    await world.call("POST", `/staff/${staffId}/conversations`, { title: "To delete", messages })
    await world.call("POST", `/staff/${staffId}/memories`, { text: "Kim likes tea." })
    const page = await world.openPage(`#/${staffId}/-/memory`)
    const panel = page.getByRole("complementary")
    const press = async (name: string) => {
      const button = page.getByRole("button", { name, exact: true }).last()
      await button.focus()
      await page.keyboard.press("Enter")
    }
    const staysIn = async (place: string, what: string) => {
      const isWithin = () => page.evaluate(other => document.activeElement?.closest(other) !== null, place)
      await expect.poll(isWithin, { message: what }).toBe(true)
    }
    await press("Pin")
    await panel.getByRole("button", { name: "Unpin" }).waitFor()
    await staysIn(".item", "pinning")
    await press("Edit")
    await press("Cancel")
    await staysIn(".item", "cancelling a correction")
    await press("Edit")
    await page.keyboard.press("ControlOrMeta+A")
    await page.keyboard.type("Kim likes coffee.")
    await press("Save")
    await panel.getByText("Kim likes coffee.").waitFor()
    await staysIn(".panel", "a correction")
    await panel.getByRole("button", { name: /^Messages/ }).click()
    await panel.getByText("I have a boat.").waitFor()
    await press("Forget")
    await press("Keep it")
    await staysIn(".item", "keeping what was to be forgotten")
    await press("Forget")
    await panel.locator(".forget .danger").focus()
    await page.keyboard.press("Enter")
    await panel.getByRole("button", { name: "Keep it" }).waitFor({ state: "detached" })
    await staysIn(".panel", "erasing a message")
    await press("Delete To delete")
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).focus()
    await page.keyboard.press("Enter")
    await page.getByRole("link", { name: /To delete/ }).waitFor({ state: "detached" })
    await staysIn(".sidebar", "deleting a conversation")
  })

  test("errors of a form name its fields as the form does", async () => {
    const page = await open()
    await page.getByRole("button", { name: "Edit Ada" }).first().focus()
    await page.keyboard.press("Enter")
    await page.getByText("Model and limits").click()
    await page.getByLabel("Context budget, tokens").fill("5")
    await page.locator("dialog form").evaluate(form => form.setAttribute("novalidate", ""))
    await page.getByRole("button", { name: "Save" }).click()
    const alert = page.getByRole("dialog").getByRole("alert")
    await alert.waitFor()
    expect(await alert.innerText()).toMatch(/^Context budget: should be .*200$/)
    const models = page.locator("#models option")
    expect(await models.count()).toBeGreaterThan(5)
    expect(await models.first().textContent()).toMatch(/^\$[\d.]+ in, \$[\d.]+ out/)
  })

  test("a message that is sent during a reply waits for its end, or stops it", async () => {
    const page = await open()
    await say(page, QUESTION)
    await growing(page).waitFor()
    await say(page, "And then?")
    await page.getByText("Waits for the answer to end:").waitFor()
    await expect.poll(() => page.locator(".ss-message").count()).toBe(4)
    await growing(page).waitFor()
    await say(page, "Stop that.")
    await page.getByRole("button", { name: "Stop the answer, send now" }).click()
    await expect.poll(() => page.locator(".ss-message").count()).toBe(6)
    await expect.poll(() => page.locator("[data-status=streaming]").count()).toBe(0)
    const saved = await world.call<{ status: string; content: string }[]>("GET", `/staff/${staffId}/messages`)
    expect(saved).toHaveLength(6)
    expect(saved[2]?.status).toBe("cancelled")
  })

  test("on paper there is the talk alone", async () => {
    const page = await importReply("A reply.")
    await page.emulateMedia({ media: "print" })
    expect(await page.locator(".sidebar").isVisible()).toBe(false)
    expect(await page.locator(".ss-composer").isVisible()).toBe(false)
    expect(await page.getByText("A reply.").isVisible()).toBe(true)
  })

  test("text can be copied where the page has no clipboard of its own", async () => {
    const page = await importReply("Copied words.")
    await page.evaluate(() => {
      Object.defineProperty(navigator, "clipboard", { value: undefined })
      document.addEventListener("copy", () => {
        Object.assign(window, { copied: (document.activeElement as HTMLTextAreaElement).value })
      })
    })
    await page.getByRole("button", { name: "Copy", exact: true }).click()
    await page.getByRole("button", { name: "Copied" }).waitFor()
    expect(await page.evaluate(() => (window as unknown as { copied: string }).copied)).toBe("Copied words.")
  })

  const phone = { viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true }

  test("Back closes the drawer of a phone, and fingers find their targets", async () => {
    const page = await open(phone)
    await composer(page).waitFor()
    const depth = await page.evaluate(() => history.length)
    await page.getByRole("button", { name: "Staff and conversations" }).click()
    await page.getByRole("button", { name: "New conversation" }).waitFor()
    await expect.poll(() => tooSmall(page)).toEqual([])
    await page.goBack()
    await expect.poll(() => page.locator(".office").getAttribute("data-menu")).toBe("false")
    expect(page.url()).toContain(staffId)
    expect(await page.evaluate(() => history.length)).toBe(depth + 1)
  })

  test("fingers find their targets in every view", async () => {
    await world.call("POST", `/staff/${staffId}/memories`, { text: "Kim likes tea." })
    const page = await open(phone)
    await composer(page).fill("What do I like? My name is Kim.")
    await page.getByRole("button", { name: "Send" }).tap()
    await finished(page).waitFor()
    await expect.poll(() => tooSmall(page), { message: "the talk" }).toEqual([])
    await finished(page).tap()
    await page.getByText(/of 6,000 tokens/).waitFor()
    await expect.poll(() => tooSmall(page), { message: "why" }).toEqual([])
    for (const view of ["memory", "graph"]) {
      await page.goto(`${world.host.url}#/${staffId}/-/${view}`)
      await page.getByRole("complementary").waitFor()
      await expect.poll(() => page.locator(".spinner").count()).toBe(0)
      await expect.poll(() => tooSmall(page), { message: view }).toEqual([])
    }
    await page.goto(`${world.host.url}#/${staffId}`)
    await page.getByRole("button", { name: "Staff and conversations" }).tap()
    await page.getByRole("button", { name: "Edit Ada" }).last().tap()
    await page.getByText("Model and limits").tap()
    await expect.poll(() => tooSmall(page), { message: "the editor" }).toEqual([])
  })

  /** What is pressed and is less than 44 pixels high or wide: a link in a sentence may be. */
  const tooSmall = (page: Page) =>
    page
      .locator(":is(button, a.row, summary, input, textarea, select, [role=button]):visible")
      .evaluateAll(targets =>
        targets
          .map(target => ({ target, box: (target.closest("label.check") ?? target).getBoundingClientRect() }))
          .filter(({ box }) => Math.min(box.height, box.width) < 43.5)
          .map(({ target, box }) => `${box.width}x${box.height} ${target.outerHTML.slice(0, 120)}`),
      )

  test("a suggestion fills the box and sends nothing; a banner says that a stand-in answers", async () => {
    const page = await open()
    const asked = countRequests(page, "POST", /\/messages/)
    await page.getByText("A stand-in answers here").waitFor()
    await page.getByRole("button", { name: "What do you know about me?" }).click()
    expect(await composer(page).inputValue()).toBe("What do you know about me?")
    expect(asked()).toBe(0)
    await page.reload()
    await expect.poll(() => composer(page).inputValue()).toBe("What do you know about me?")
  })

  test("what happens in another tab or program shows without a reload", async () => {
    const page = await world.openPage(`#/${staffId}/-/memory`)
    await page.getByText("Nothing is remembered yet.").waitFor()
    await world.call("POST", `/staff/${staffId}/memories`, { text: "Kim likes tea." })
    await page.getByText("Kim likes tea.").waitFor()
    await world.call("POST", `/staff/${staffId}/conversations`, { title: "From elsewhere" })
    await page.getByRole("link", { name: /From elsewhere/ }).waitFor()
    const tab = await world.openTab(await page.context().newPage(), `#/${staffId}`)
    await say(tab, QUESTION)
    await page.getByText(QUESTION).waitFor()
    await finished(page).waitFor()
  })

  test("a conversation in which a reply is made has a dot, and keeps one until the reply is seen", async () => {
    const page = await world.openPage(`#/${staffId}/-/memory`)
    await page.getByText("Nothing is remembered yet.").waitFor()
    const path = `/staff/${staffId}/conversations`
    const talk = await world.call<{ id: string }>("POST", path, { title: "Other" })
    const row = page.getByRole("link", { name: /Other/ })
    await row.waitFor()
    const body = { content: QUESTION, conversation_id: talk.id }
    await world.call("POST", `/staff/${staffId}/messages`, body)
    await row.getByRole("img", { name: "is answering" }).waitFor()
    await row.getByRole("img", { name: "unread" }).waitFor()
    expect(await row.getByRole("img", { name: "is answering" }).count()).toBe(0)
    await row.click()
    await finished(page).waitFor()
    await expect.poll(() => row.getByRole("img").count()).toBe(0)
  })

  test("every conversation and every memory can be reached", async () => {
    for (let index = 0; index < 60; index++) {
      await world.call("POST", `/staff/${staffId}/conversations`, { title: `Talk ${index}` })
    }
    const facts = Array.from({ length: 70 }, (_, index) => ({ text: `Fact number ${index}.` }))
    await world.call("POST", `/staff/${staffId}/memories`, facts)
    const page = await world.openPage(`#/${staffId}/-/memory`)
    await page.getByRole("link", { name: /Talk 59/ }).waitFor()
    await page.locator(".sidebar").evaluate(sidebar => sidebar.scrollTo(0, sidebar.scrollHeight))
    await page.getByRole("link", { name: "Talk 0 ", exact: false }).first().waitFor()
    for (const count of [40, 60, 70]) {
      await page.getByRole("button", { name: "Show more" }).click()
      await expect.poll(() => page.locator(".panel .item").count()).toBe(count)
    }
  })

  test("code is coloured and formulas are drawn, within the security policy", async () => {
    const page = await importReply("```python\ndef f(): return 1\n```\n\n$a^2 + b^2$")
    await page.locator(".ss-code-keyword").first().waitFor()
    await page.locator(".ss-math math").waitFor()
    expect(await page.locator(".ss-code code").innerText()).toBe("def f(): return 1\n")
  })

  test("two thousand messages load by scrolling, and only those in sight are drawn", async () => {
    const messages = Array.from({ length: 2000 }, (_, index) => ({
      message_type: index % 2 ? "assistant" : "user",
      content: `Message ${index}`,
      created_at: new Date(Date.UTC(2026, 9, 1) + index * 60_000).toISOString(),
    }))
    const body = { title: "Long", messages }
    const { id } = await world.call<{ id: string }>("POST", `/staff/${staffId}/conversations`, body)
    const page = await world.openPage(`#/${staffId}/${id}`)
    await page.getByText("Message 1999", { exact: true }).waitFor()
    const list = page.locator(".ss-scroll")
    const count = () => page.locator(".ss-message").count()
    for (let known = await count(); known < 2000; ) {
      await list.evaluate(element => element.scrollTo(0, 0))
      await expect.poll(count).toBeGreaterThan(known)
      known = await count()
    }
    // Rows out of sight cost nothing: the browser does not lay them out. `npm run bench` measures what that gives.
    const isDrawn = (index: number) =>
      page
        .locator(".ss-message article")
        .nth(index)
        .evaluate(row => row.checkVisibility({ contentVisibilityAuto: true }))
    await page.locator(".ss-latest").click()
    await expect.poll(() => isDrawn(1999)).toBe(true)
    await expect.poll(() => isDrawn(0)).toBe(false)
  })
})
