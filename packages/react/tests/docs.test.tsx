/** The guides' code: all of it type-checks, and all of it runs, against the real server with the stand-in for Claude. */
import "./dom.ts"
import { execFile, execFileSync } from "node:child_process"
import { existsSync } from "node:fs"
import { mkdir, readFile, rm, writeFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { createElement, type FunctionComponent, version } from "react"
import { createRoot } from "react-dom/client"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import * as everything from "../src/index.ts"
import { ChatStore, StaffClient, StaffstreamError } from "../src/index.ts"
import { hasServer, RealServer } from "./realServer.ts"
import { until } from "./server.ts"

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const GUIDES = ["UPDATE_FRONTEND_GUIDE.md", "STREAMING_GUIDE.md"]
const README = await readFile(here("../README.md"), "utf8")
/** A folder of its own for each run, since several may go side by side. */
const folder = here(`../.docs/${version}-${process.pid}/`)

interface Block {
  language: string
  code: string
  /** What it exports, in whose name it is tried. */
  name: string
}

const texts = Object.fromEntries(
  await Promise.all(
    GUIDES.map(async guide => [guide, await readFile(here(`../../../docs/${guide}`), "utf8")] as const),
  ),
)
const blocks: Block[] = [...Object.values(texts), README].flatMap(text =>
  [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language = "", code = ""]) => ({
    language,
    code,
    name: /export (?:async )?function (\w+)/.exec(code)?.[1] ?? "",
  })),
)
const modules = blocks.filter(({ language }) => language === "ts" || language === "tsx")
const only = (language: string, part: string) =>
  blocks.filter(block => block.language === language && block.code.includes(part))

beforeAll(async () => {
  await mkdir(folder, { recursive: true })
  const config = {
    extends: "../../tsconfig.json",
    include: ["*"],
    compilerOptions: { types: ["node", "vite/client"] },
  }
  await writeFile(`${folder}tsconfig.json`, JSON.stringify(config))
  for (const { name, language, code } of modules) await writeFile(`${folder}${name}.${language}`, code)
})
afterAll(() => rm(folder, { recursive: true }))

test("every piece of TypeScript in the guides type-checks", async () => {
  const tsc = here("../../node_modules/typescript/bin/tsc")
  const { stdout } = await promisify(execFile)(process.execPath, [tsc, "-p", folder]).catch(failed => failed)
  expect(stdout).toBe("")
})

test("the guide names everything that the package exports, and every part of the hook's answer", () => {
  const guide = texts["UPDATE_FRONTEND_GUIDE.md"] ?? ""
  const store = new ChatStore(new StaffClient(), "ada", { isIdle: true })
  const own = Object.keys(store).filter(name => typeof store[name as keyof ChatStore] === "function")
  const internal = ["subscribe", "getSnapshot", "getServerSnapshot"]
  const names = [...Object.keys(everything), ...Object.keys(store.getSnapshot()), ...own]
  const unnamed = names.filter(name => !internal.includes(name) && !new RegExp(`\\b${name}\\b`).test(guide))
  expect(unnamed).toEqual([])
})

test("every link from guide to guide leads to a heading that is there", () => {
  const slug = (heading: string) =>
    heading
      .toLowerCase()
      .replace(/[^\w\- ]/g, "")
      .replaceAll(" ", "-")
  for (const text of Object.values(texts)) {
    for (const [, guide = "", anchor] of text.matchAll(/\]\(([\w.]+)(?:#([\w-]+))?\)/g)) {
      const headings = [...(texts[guide] ?? "").matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
        slug(heading),
      )
      expect(existsSync(here(`../../../docs/${guide}`)), guide).toBe(true)
      if (anchor) expect(headings, guide).toContain(anchor)
    }
  }
})

describe.skipIf(!hasServer)("run", () => {
  let server: RealServer
  let staffId: string
  const nodeFetch = globalThis.fetch

  beforeAll(async () => {
    server = await RealServer.start("--offline-pace-s", "0.002")
    // The page's own origin, and the host that the guide makes up, are the test's server.
    globalThis.fetch = (url, init) =>
      nodeFetch(String(url).replace(/^(https:\/\/assistant\.example\.org)?\//, `${server.url}/`), init)
  })
  afterAll(async () => {
    globalThis.fetch = nodeFetch
    await server?.stop()
  })

  const savedReply = async () => {
    const response = await nodeFetch(`${server.url}/api/v1/staff/${staffId}/messages`)
    const [latest] = (await response.json()) as { content: string; message_type: string }[]
    return latest?.message_type === "assistant" ? latest.content : ""
  }

  const post = (path: string, body: unknown) =>
    nodeFetch(`${server.url}/api/v1/staff/${staffId}/${path}`, { method: "POST", body: JSON.stringify(body) })
  const listMemories = async () => (await nodeFetch(`${server.url}/api/v1/staff/${staffId}/memories`)).json()

  async function show(component: FunctionComponent<{ staffId: string }>) {
    const place = document.body.appendChild(document.createElement("div"))
    const root = createRoot(place)
    root.render(createElement(component, { staffId }))
    return {
      until: (text: string) => until(() => place.textContent?.includes(text)),
      leave() {
        root.unmount()
        place.remove()
      },
    }
  }

  async function tryComponent(component: FunctionComponent<Record<string, string>>): Promise<void> {
    const place = document.body.appendChild(document.createElement("div"))
    const root = createRoot(place)
    root.render(createElement(component, { staffId, userId: "kim" }))
    await until(() => place.querySelector("input, textarea"))
    const box = place.querySelector("input, textarea") as HTMLInputElement
    const prototype = Object.getPrototypeOf(box) as object
    Object.getOwnPropertyDescriptor(prototype, "value")?.set?.call(box, "My name is Kim.")
    box.dispatchEvent(new Event("input", { bubbles: true }))
    await until(() => place.querySelector("button:not([type=button]):not([disabled])"))
    box.form?.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true }))
    // The reply is there, and the button stops nothing any more.
    await expect.poll(async () => (await savedReply()).length).toBeGreaterThan(0)
    const start = (await savedReply()).slice(0, 20)
    await until(() => place.textContent?.includes(start) && !place.querySelector("[aria-label=Stop]"))
    expect(place.textContent).toContain("My name is Kim.")
    root.unmount()
    place.remove()
  }

  /** How each piece is tried, by the name that it exports. */
  // biome-ignore lint/suspicious/noExplicitAny: each has its own shape, which the type check above has seen
  const trials: Record<string, (piece: any) => Promise<void> | void> = {
    SimpleChat: tryComponent,
    Support: tryComponent,
    Page: tryComponent,
    OwnChat: tryComponent,
    PhaseOne: tryComponent,
    PhaseTwo: tryComponent,
    Assistant: tryComponent,
    Known: async piece => {
      const page = await show(piece)
      await page.until("0 conversations")
      await post("conversations", { title: "Tea" })
      await post("memories", { text: "Kim likes tea." })
      await page.until("1 conversations")
      await page.until("Kim likes tea.")
      page.leave()
    },
    LastReply: async piece => {
      const page = await show(piece)
      await page.until("No reply yet.")
      await post("messages", { content: "Hello!" })
      await page.until("of 6000 tokens")
      page.leave()
    },
    remember: async piece => {
      const { nodes } = await piece(new StaffClient(), staffId, "Kim likes tea.")
      expect(nodes).toBeInstanceOf(Array)
      expect(await listMemories()).toMatchObject([{ text: "Kim likes tea." }])
    },
    Facts: async piece => {
      await post("memories", { text: "Kim likes tea." })
      const page = await show(piece)
      await page.until("Kim likes tea.")
      page.leave()
    },
    explain: piece => {
      const error = new StaffstreamError("Claude is overloaded.", {
        code: "upstream_overloaded",
        retryable: true,
      })
      expect(piece(error)).toBe("Claude is overloaded. Try again.")
    },
    ask: async piece => {
      const shown: string[] = []
      expect(await piece(staffId, "Hello!", (text: string) => shown.push(text))).toBe(await savedReply())
      expect(shown.length).toBeGreaterThan(3)
    },
    mount: async piece => {
      const list = { textContent: "" }
      const { send, unsubscribe } = piece(staffId, list)
      await send("Hello!")
      expect(list.textContent).toBe(`user: Hello!\nassistant: ${await savedReply()}`)
      unsubscribe()
    },
    streamReply: async piece => {
      let text = ""
      const messageId = await piece(staffId, "Hello!", (part: string) => {
        text += part
      })
      expect(messageId).toMatch(/^[0-9a-f-]{36}$/)
      expect(text).toBe(await savedReply())
    },
  }

  test.each(modules.map(({ name, language }) => ({ name, language })))(
    "$name",
    async ({ name, language }) => {
      staffId = await server.makeStaff()
      const trial = trials[name]
      if (!trial)
        throw new Error(`the guides have a new piece, ${name || "which exports nothing"}: say how to try it`)
      await trial((await import(`${folder}${name}.${language}`))[name])
    },
  )

  test.each(only("sh", "curl"))("curl: $code", async ({ code }) => {
    staffId = await server.makeStaff()
    const { run_id } = (await nodeFetch(`${server.url}/api/v1/staff/${staffId}/messages`, {
      method: "POST",
      body: JSON.stringify({ content: "Hello!", multitask_strategy: "enqueue" }),
    }).then(response => response.json())) as { run_id: string }
    const env = { ...process.env, STAFF_ID: staffId, RUN_ID: run_id }
    const local = code
      .replaceAll("http://127.0.0.1:8001", server.url)
      .replace('"content"', '"multitask_strategy": "enqueue", "content"')
    const output = execFileSync("bash", ["-c", local], {
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    })
    expect(output).toMatch(/"type":"token".*"type":"done"/s)
  })

  const python = process.env.PYTHON ?? here("../../../.venv/bin/python")
  test.skipIf(!existsSync(python) && process.env.CI !== "true").each(only("python", "httpx"))(
    "Python",
    async ({ code }) => {
      staffId = await server.makeStaff()
      const script = `${code.replaceAll("http://127.0.0.1:8001", server.url)}
import asyncio
print(asyncio.run(stream_reply(${JSON.stringify(staffId)}, "Hello!")), end="")`
      const { stdout } = await promisify(execFile)(python, ["-c", script], { encoding: "utf8" })
      expect(stdout).toBe(await savedReply())
    },
  )
})
