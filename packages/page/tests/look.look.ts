/** Pictures of every part of the page, for eyes: `npm run look`, then see the folder that it names. */
import { mkdir } from "node:fs/promises"
import { expect, test } from "vitest"
import { RealServer } from "../../react/tests/realServer.ts"
import { openBrowser } from "./browser.ts"
import { Host } from "./host.ts"
import { GRAPH } from "./sample.ts"

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
  const server = await RealServer.start("--offline-pace-s", "0.02", "--extract-every-messages", "2")
  const host = await new Host(server.url).start()
  host.mock = call => (/GET \S+\/graph/.test(call) ? GRAPH : undefined)
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
  const call = async <T>(method: string, path: string, body: unknown) => {
    const response = await fetch(`${server.url}/api/v1/staff/${ada}${path}`, {
      method,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    })
    return (await response.json()) as T
  }
  const [home] = await call<{ id: string }[]>("POST", "/memories", [
    { text: "Kim lives in Oslo.", occurred_at: "2025-09-14T18:00:00.000Z" },
    { text: "Kim plays the cello in the Bergen youth orchestra.", occurred_at: "2026-09-14T18:00:00.000Z" },
    { text: "Kim's cello lesson is on Tuesdays at five.", occurred_at: "2026-10-02T18:00:00.000Z" },
    { text: "Anna, Kim's sister, plays the piano.", occurred_at: "2026-10-20T18:00:00.000Z" },
  ])
  await call("PATCH", `/memories/${home?.id}`, { text: "Kim lives in Bergen." })
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
  const { id: conversation } = await call<{ id: string }>("POST", "/conversations", {
    title: "Bergen and its rain",
    messages: past,
  })

  const brothers = ["Lars", "Nils", "Odd", "Per"]
  for (const [name, size] of Object.entries({
    desk: { width: 1440, height: 900 },
    phone: { width: 390, height: 800 },
  })) {
    for (const colorScheme of ["light", "dark"] as const) {
      const { context, close } = await openBrowser({
        viewport: size,
        colorScheme,
        hasTouch: name === "phone",
      })
      const page = await context.newPage()
      page.setDefaultTimeout(8000)
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
      const home = page.locator(".item", { hasText: "Kim lives in Bergen." }).first()
      await home.getByRole("button", { name: "Where it comes from" }).click()
      await page.getByText("Kim lives in Oslo.").waitFor()
      await shot("6-memory")
      await page.goto(`${host.url}#/${ada}/${conversation}/graph`)
      await page.getByRole("button", { name: "Anna, person" }).waitFor()
      await shot("7-graph")
      await page.goto(`${host.url}#/${ada}/new`)
      const box = page.getByRole("textbox")
      const send = page.getByRole("button", { name: "Send" })
      for (const text of [
        `My brother ${brothers.pop()} is a baker.`,
        "I work as a nurse in Molde. Where does Kim live?",
      ]) {
        await box.fill(text)
        await send.click()
        await page.locator("[data-status=streaming]").waitFor()
        await send.waitFor()
      }
      await page
        .getByText(/^Learned/)
        .first()
        .waitFor()
      await page
        .getByRole("button", { name: /^From / })
        .last()
        .click()
      await page.waitForTimeout(400)
      await shot("8-learned")
      await page
        .getByRole("button", { name: /^From / })
        .last()
        .click()
      await page.getByRole("button", { name: "Memory" }).click()
      await page.getByText(`brother called`).last().waitFor()
      await page.waitForTimeout(400)
      await shot("9-known")
      await page.goto(`${host.url}#/${ada}/-`)
      if (name === "phone") await page.getByRole("button", { name: "Staff and conversations" }).click()
      await page.getByRole("button", { name: "Edit Ada" }).click()
      await page.getByText("Model and limits").click()
      await shot("10-editor")
      await page.getByRole("button", { name: "Let go…" }).click()
      await shot("11-let-go")
      await close()
      expect(problems).toEqual([])
    }
  }
  await host.stop()
  await server.stop()
  console.log(`see ${folder}`)
})
