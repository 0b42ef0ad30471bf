import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { hasServer } from "../../react/tests/realServer.ts"
import { hasBrowser } from "./browser.ts"
import { countRequests, finished, say, World } from "./world.ts"

describe.skipIf(!hasServer || !hasBrowser)("what stands behind the talk", () => {
  let world: World
  let staffId: string

  beforeAll(async () => {
    world = await World.begin("--offline-pace-s", "0.002", "--extract-every-messages", "2")
  })
  afterAll(() => world?.end())
  beforeEach(async () => {
    staffId = await world.server.makeStaff({ name: "Ada" })
  })
  afterEach(async () => {
    await world.closeBrowsers()
    world.checkProblems()
  })

  const tell = (text: string) => world.call<{ id: string }>("POST", `/staff/${staffId}/memories`, { text })
  const openMemory = async () => {
    const page = await world.openPage(`#/${staffId}/-/memory`)
    return { page, panel: page.getByRole("complementary", { name: "What Ada knows about you" }) }
  }

  test("why an answer came out so: its sections, its memories with scores, and the tokens they took", async () => {
    await tell("Kim plays the cello in the Bergen youth orchestra.")
    const page = await world.openPage(`#/${staffId}`)
    await say(page, "Which instrument does Kim play in the orchestra?")
    await finished(page).click()
    const panel = page.getByRole("complementary", { name: "Why this answer" })
    await panel.getByText(/of 6,000 tokens/).waitFor()
    await panel.getByText(/youth orchestra/).waitFor()
    expect(await panel.getByRole("meter", { name: "Score" }).count()).toBeGreaterThan(0)
    expect(await panel.locator(".bar i").count()).toBeGreaterThanOrEqual(3)
    await panel.getByText("Persona", { exact: false }).last().click()
    await panel.getByText(/You are Ada/).waitFor()
  })

  test("a memory is added, found by what it means, corrected, and shows what it was before", async () => {
    await tell("Kim's sister Anna plays the piano.")
    const { page, panel } = await openMemory()
    await panel.getByRole("textbox", { name: "Something to remember" }).fill("Kim lives in Oslo.")
    await panel.getByRole("button", { name: "Add" }).click()
    await panel.getByText("Kim lives in Oslo.").waitFor()
    await panel.getByRole("searchbox").fill("where is Kim's home, in which city does Kim live")
    await expect.poll(() => panel.locator(".item").first().innerText()).toContain("Kim lives in Oslo.")
    await panel.getByRole("searchbox").fill("")
    const item = panel.locator(".item", { hasText: "Kim lives in Oslo." })
    await item.getByRole("button", { name: "Edit" }).click()
    await panel.getByRole("textbox", { name: "What is remembered" }).fill("Kim lives in Bergen.")
    await panel.getByRole("button", { name: "Save" }).click()
    const corrected = panel.locator(".item", { hasText: "Kim lives in Bergen." })
    await corrected.getByRole("button", { name: "Where it comes from" }).click()
    await corrected.getByText("Kim lives in Oslo.").waitFor()
    await corrected.getByText("Added by hand.").waitFor()
    await page.reload()
    await panel.getByText("Kim lives in Bergen.").waitFor()
  })

  test("a memory is pinned, forgotten, and brought back", async () => {
    await tell("Kim is allergic to nuts.")
    const { page, panel } = await openMemory()
    const item = panel.locator(".item", { hasText: "allergic" })
    await item.getByRole("button", { name: "Pin" }).click()
    await item.getByRole("button", { name: "Unpin" }).waitFor()
    await item.getByRole("button", { name: "Forget" }).click()
    await item.getByText(/not learned again/).waitFor()
    await page.reload()
    await panel.getByText("Nothing is remembered yet.").waitFor()
    await panel.getByRole("button", { name: "Forgotten" }).click()
    await item.getByRole("button", { name: "Bring it back" }).click()
    await item.getByRole("button", { name: "Forget" }).waitFor()
    await panel.getByRole("button", { name: "Facts" }).click()
    await item.getByRole("button", { name: "Unpin" }).waitFor()
  })

  test("what one says is learned as facts, each with the message it came from, and drawn as a graph", async () => {
    const page = await world.openPage(`#/${staffId}`)
    await say(page, "Hello! My name is Kim and I live in Bergen.")
    await finished(page).waitFor()
    await say(page, "My sister Anna plays the piano.")
    await expect.poll(() => page.getByRole("button", { name: "Why this answer" }).count()).toBe(2)
    const facts = () => world.call<unknown[]>("GET", `/staff/${staffId}/memories?kind=fact`)
    await expect.poll(async () => (await facts()).length, { timeout: 20_000 }).toBeGreaterThan(0)
    await page.getByRole("button", { name: "Memory" }).click()
    const panel = page.getByRole("complementary")
    await panel.getByRole("button", { name: "Facts" }).click()
    await panel.locator(".item").first().getByRole("button", { name: "Where it comes from" }).click()
    await panel.locator(".origin blockquote").waitFor()
    await page.getByRole("button", { name: "Graph" }).click()
    const node = panel.locator(".node").first()
    await node.waitFor()
    const name = await node.getAttribute("aria-label")
    await node.focus()
    await page.keyboard.press("Enter")
    await panel.getByRole("button", { name: "2 steps" }).waitFor()
    expect(decodeURIComponent(page.url())).toContain(`/graph/${name?.split(",")[0]}`)
    await panel.getByRole("button", { name: "Everything" }).click()
    await expect.poll(() => panel.locator(".node").count()).toBeGreaterThan(1)
  })

  test("a staff member is made, changed and let go", async () => {
    const page = await world.openPage(`#/${staffId}`)
    await page.getByRole("button", { name: "New staff member" }).click()
    await page.getByLabel("Name").fill("Grace 🚀")
    await page.getByLabel("Role").fill("a navigator")
    await page.getByText("Model and limits").click()
    await page.getByLabel("Context budget, tokens").fill("3000")
    await page.getByRole("button", { name: "Save" }).click()
    await page.getByRole("heading", { level: 1, name: "Grace 🚀" }).waitFor()
    const find = async () =>
      (
        await world.call<{ name: string; role: string; context_budget_tokens: number | null }[]>(
          "GET",
          "/staff",
        )
      ).find(member => member.name.startsWith("Grace"))
    expect(await find()).toMatchObject({ role: "a navigator", context_budget_tokens: 3000 })
    const edit = page.getByRole("button", { name: "Edit Grace 🚀" })
    await edit.focus()
    await page.keyboard.press("Enter")
    await page.getByLabel("Role").fill("a pilot")
    await page.getByText("Model and limits").click()
    await page.getByLabel("Context budget, tokens").fill("")
    await page.getByRole("button", { name: "Save" }).click()
    await page.getByText("a pilot").first().waitFor()
    expect(await find()).toMatchObject({ role: "a pilot", context_budget_tokens: null })
    await edit.focus()
    await page.keyboard.press("Enter")
    await page.getByRole("button", { name: "Let go…" }).dblclick()
    expect(await find()).toBeDefined()
    const erase = page.getByRole("button", { name: "Erase everything" })
    expect(await erase.isDisabled()).toBe(true)
    await page.getByLabel("Write the name to confirm").fill("Grace 🚀")
    await erase.click()
    await expect.poll(find).toBeUndefined()
    await page.getByRole("heading", { level: 1 }).waitFor()
  })

  test("a conversation is begun and deleted", async () => {
    const page = await world.openPage(`#/${staffId}`)
    const made = countRequests(page, "POST", /\/conversations$/)
    for (let press = 0; press < 3; press++) {
      await page.getByRole("button", { name: "New conversation" }).click()
      await page.waitForURL(/#\/[^/]+\/new/)
    }
    await say(page, "Only for a moment")
    await finished(page).waitFor()
    expect(made()).toBe(1)
    expect(await world.call<unknown[]>("GET", `/staff/${staffId}/conversations`)).toHaveLength(1)
    const row = page.getByRole("link", { name: /Only for a moment/ })
    await row.hover()
    await page.getByRole("button", { name: "Delete Only for a moment" }).click()
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click()
    await row.waitFor({ state: "detached" })
    await page.getByRole("heading", { name: "Talk to Ada" }).waitFor()
  })
})
