/** Pictures of every part of the page, for eyes: `npm run look`, then see the folder that it names. */
import { mkdir } from "node:fs/promises"
import { expect, test } from "vitest"
import { RealServer } from "../../react/tests/realServer.ts"
import { openBrowser } from "./browser.ts"
import { Host } from "./host.ts"
import { DETAILS, GRAPH, MEMORIES } from "./sample.ts"

const folder = process.env.LOOK ?? "/tmp/staffstream-look"

const reply = `Here is what I know so far:

## Bergen, in short

1. It **rains** on about 230 days a year, see [the numbers](https://example.org/rain).
2. The harbour has \`bryggen\`, a row of wooden houses.

| month | rain, mm |
|:------|---------:|
| May   | 106 |
| Oct   | 271 |

\`\`\`python
def umbrella(day: int) -> bool:
    return day % 8 != 0  # seven days of eight
\`\`\`

> It is *nice* between the showers.`

test("look", { timeout: 180_000 }, async () => {
  await mkdir(folder, { recursive: true })
  const server = await RealServer.start("--offline-pace-s", "0.02")
  const host = await new Host(server.url).start()
  host.mock = call => {
    if (/GET \S+\/memories\/m1$/.test(call)) return DETAILS
    if (/GET \S+\/memories/.test(call))
      return MEMORIES.map((memory, index) => ({ ...memory, score: 0.91 - index * 0.17 }))
    if (/GET \S+\/graph/.test(call)) return GRAPH
    return undefined
  }
  const ada = await server.makeStaff({
    name: "Ada",
    role: "a personal assistant",
    persona: "Warm and brief.",
  })
  await server.makeStaff({
    name: "Boris",
    role: "a patient maths teacher with a very long description of the role",
  })
  await server.makeStaff({ name: "ليلى", role: "مترجمة" })
  await fetch(`${server.url}/api/v1/staff/${ada}/memories`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify([
      { text: "Kim plays the cello in the Bergen youth orchestra.", occurred_at: "2026-09-14T18:00:00.000Z" },
      { text: "Kim's cello lesson is on Tuesdays at five.", occurred_at: "2026-10-02T18:00:00.000Z" },
      { text: "Anna, Kim's sister, plays the piano.", occurred_at: "2026-10-20T18:00:00.000Z" },
    ]),
  })
  const past = [
    { message_type: "user", content: "What is Bergen like?", created_at: "2026-11-22T10:00:00.000Z" },
    { message_type: "assistant", content: reply, created_at: "2026-11-22T10:00:10.000Z" },
    {
      message_type: "user",
      content: "שלום! איך אומרים umbrella בנורווגית?",
      created_at: "2026-11-22T10:01:00.000Z",
    },
    {
      message_type: "assistant",
      content: "**paraply** — כך אומרים מטרייה בנורווגית.",
      created_at: "2026-11-22T10:01:10.000Z",
    },
  ]
  const response = await fetch(`${server.url}/api/v1/staff/${ada}/conversations`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ title: "Bergen and its rain", messages: past }),
  })
  const conversation = ((await response.json()) as { id: string }).id

  for (const [name, size] of Object.entries({
    desk: { width: 1360, height: 860 },
    phone: { width: 390, height: 800 },
  })) {
    for (const colorScheme of ["light", "dark"] as const) {
      const { context, close } = await openBrowser({
        viewport: size,
        colorScheme,
        hasTouch: name === "phone",
      })
      const page = await context.newPage()
      const problems: string[] = []
      page.on("console", message => message.type() === "error" && problems.push(message.text()))
      page.on("pageerror", error => problems.push(error.message))
      const shot = (what: string) => page.screenshot({ path: `${folder}/${name}-${colorScheme}-${what}.png` })
      await page.goto(host.url)
      await page.getByRole("heading", { name: /Talk to Ada/ }).waitFor()
      await shot("1-welcome")
      if (name === "phone") {
        await page.getByRole("button", { name: "Staff and conversations" }).click()
        await page.waitForTimeout(400)
        await shot("2-menu")
        await page.keyboard.press("Escape")
        await page.waitForTimeout(300)
      }
      await page.goto(`${host.url}#/${ada}/${conversation}`)
      await page.getByText("paraply").waitFor()
      await shot("3-talk")
      await page.getByRole("textbox").fill("Which instrument does Kim play, and when is the lesson?")
      await page.getByRole("button", { name: "Send" }).click()
      await page.locator("[data-status=streaming] .ss-markdown p").waitFor()
      await shot("4-streaming")
      await page.getByRole("button", { name: "Send" }).waitFor()
      await page.getByRole("button", { name: "Why this answer" }).last().click()
      await page.getByText(/of 6,000 tokens/).waitFor()
      await shot("5-why")
      await page.goto(`${host.url}#/${ada}/${conversation}/memory`)
      await page.getByText("Kim lives in Bergen.").waitFor()
      await page.getByRole("button", { name: "Where it comes from" }).first().click()
      await page.getByText("Kim lives in Oslo.").waitFor()
      await shot("6-memory")
      await page.goto(`${host.url}#/${ada}/${conversation}/graph`)
      await page.getByRole("button", { name: "Anna, person" }).waitFor()
      await shot("7-graph")
      await page.goto(`${host.url}#/${ada}/-`)
      if (name === "desk") {
        await page.getByRole("button", { name: "Edit Ada" }).click()
        await page.getByText("Model and limits").click()
        await shot("8-editor")
      }
      await close()
      expect(problems).toEqual([])
    }
  }
  await host.stop()
  await server.stop()
  console.log(`see ${folder}`)
})
