import "./dom.ts"
import { memo, StrictMode, useEffect, version } from "react"
import { createRoot, type Root } from "react-dom/client"
import { afterEach, beforeEach, expect, test } from "vitest"
import {
  type ChatMessage,
  StaffClient,
  StaffClientContext,
  type StaffStreaming,
  useStaffStreaming,
} from "../src/index.ts"
import { ScriptedServer, until } from "./server.ts"

let server: ScriptedServer
let client: StaffClient
let root: Root
/** What each mounted component saw last, by its name. */
let seen: Record<string, StaffStreaming>

beforeEach(async () => {
  server = await new ScriptedServer().start()
  client = new StaffClient({ baseUrl: server.url, limits: { backoffMs: 5, maxBackoffMs: 20 } })
  root = createRoot(document.body.appendChild(document.createElement("div")))
  seen = {}
  localStorage.clear()
})
afterEach(async () => {
  root.unmount()
  await until(() => server.runs.every(run => run.readers.size === 0))
  await server.stop()
})

function Chat({ name = "a", staffId = "ada" }) {
  const chat = useStaffStreaming(staffId)
  useEffect(() => {
    seen[name] = chat
  })
  return (
    <ol data-name={name}>
      {chat.messages.map(message => (
        <Row key={message.key} message={message} />
      ))}
    </ol>
  )
}

const drawn = new Map<string, number>()

const Row = memo(({ message }: { message: ChatMessage }) => {
  drawn.set(message.content, (drawn.get(message.content) ?? 0) + 1)
  return <li>{message.content}</li>
})

function render(...chats: React.ReactNode[]) {
  root.render(
    <StrictMode>
      <StaffClientContext.Provider value={client}>{chats}</StaffClientContext.Provider>
    </StrictMode>,
  )
}

const rows = () => [...document.querySelectorAll("li")].map(row => row.textContent)

test("the version under test is the one that the project names", ({ task }) => {
  expect(task.file.projectName).toBe(`react ${version.split(".")[0]}`)
})

test("the three names of the guide are all that a simple chat needs", async () => {
  render(<Chat key="a" />)
  await until(() => seen.a?.status === "ready")
  const sent = seen.a?.sendMessage("Hello!")
  await until(() => seen.a?.isStreaming && server.runs.length)
  server.lastRun.say("Good ", "day")
  await until(() => rows().includes("Good day"))
  server.lastRun.finish()
  expect(await sent).toMatchObject({ status: "done" })
  await until(() => seen.a?.isStreaming === false)
  expect(seen.a?.error).toBeNull()
  expect(rows()).toEqual(["Hello!", "Good day"])
})

test("under StrictMode, and with two components, there is one history call and one stream", async () => {
  render(<Chat key="a" name="a" />, <Chat key="b" name="b" />)
  await until(() => seen.a?.status === "ready" && seen.b?.status === "ready")
  expect(server.asked("GET /messages")).toHaveLength(1)
  void seen.a?.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("Hi")
  await until(() => rows().filter(text => text === "Hi").length === 2)
  expect(server.lastRun.readers.size).toBe(1)
  await until(() => seen.a?.messages === seen.b?.messages)
  server.lastRun.finish()
  await until(() => !seen.b?.isStreaming)
  expect(server.asked("/stream")).toHaveLength(1)
})

test("unmounting only stops listening; coming back joins once and shows the reply whole", async () => {
  render(<Chat key="a" />)
  await until(() => seen.a?.status === "ready")
  void seen.a?.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => rows().includes("one "))
  render()
  await until(() => server.lastRun.readers.size === 0)
  expect(server.asked("/cancel")).toHaveLength(0)
  server.lastRun.say("two ")
  render(<Chat key="a" />)
  await until(() => rows().includes("one two "))
  server.lastRun.say("three")
  server.lastRun.finish()
  await until(() => rows().includes("one two three") && !seen.a?.isStreaming)
  expect(server.asked(`GET /runs/${server.lastRun.id}/stream`)).toHaveLength(1)
  expect(server.asked("POST /messages/stream")).toHaveLength(1)
})

test("rows that are finished are not drawn again while a reply grows", async () => {
  for (const content of ["first", "second"]) server.save("user", content)
  render(<Chat key="a" />)
  await until(() => rows().length === 2)
  drawn.clear()
  void seen.a?.sendMessage("Count")
  await until(() => server.runs.length)
  for (let word = 0; word < 30; word++) {
    server.lastRun.say(`${word} `)
    await until(() => rows().at(-1)?.endsWith(` ${word} `) || rows().at(-1) === "0 ")
  }
  server.lastRun.finish()
  await until(() => !seen.a?.isStreaming)
  expect(drawn.has("first")).toBe(false)
  expect(drawn.has("second")).toBe(false)
})

test("when the network comes back a stream that died unnoticed is joined at once", async () => {
  render(<Chat key="a" />)
  await until(() => seen.a?.status === "ready")
  void seen.a?.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => rows().includes("one "))
  const [dead] = server.lastRun.readers
  window.dispatchEvent(new window.Event("online"))
  await until(() => server.asked(`GET /runs/${server.lastRun.id}/stream`).length === 1)
  server.lastRun.say("two")
  server.lastRun.finish()
  await until(() => rows().includes("one two") && !seen.a?.isStreaming)
  expect(server.lastRun.readers.has(dead as never)).toBe(false)
  expect(server.asked("POST /messages/stream")).toHaveLength(1)
})

test("a tab that is looked at again reads what was said elsewhere, and never posts again", async () => {
  const { setVisibility } = await import("./dom.ts")
  render(<Chat key="a" />)
  await until(() => seen.a?.status === "ready")
  setVisibility("hidden")
  const question = server.save("user", "From the phone")
  server.save("assistant", "To the phone", { reply_to: question.id })
  setVisibility("visible")
  await until(() => rows().length === 2)
  expect(rows()).toEqual(["From the phone", "To the phone"])
  expect(server.requests.every(request => request.method === "GET")).toBe(true)
})

test("a tab switch in the middle of a reply changes nothing", async () => {
  const { setVisibility } = await import("./dom.ts")
  render(<Chat key="a" />)
  await until(() => seen.a?.status === "ready")
  void seen.a?.sendMessage("Hello!")
  await until(() => server.runs.length)
  server.lastRun.say("one ")
  await until(() => rows().includes("one "))
  setVisibility("hidden")
  server.lastRun.say("two")
  setVisibility("visible")
  server.lastRun.finish()
  await until(() => rows().includes("one two") && !seen.a?.isStreaming)
  expect(server.asked("/stream")).toHaveLength(1)
})

test("a second tab joins the reply that the first one asked for", async () => {
  render(<Chat key="a" />)
  await until(() => seen.a?.status === "ready")
  const question = server.save("user", "From the other tab")
  const run = server.begin(
    { method: "POST", path: "", query: new URLSearchParams(), key: "other", headers: {}, body: {} },
    () => question,
  )
  const name = `staffstream:${server.url}|ada|`
  localStorage.setItem(name, JSON.stringify({ key: "other", runId: server.lastRun.id, at: Date.now() }))
  window.dispatchEvent(new window.StorageEvent("storage", { key: name }))
  await until(() => seen.a?.isStreaming)
  server.lastRun.say("Seen in both")
  await until(() => rows().includes("Seen in both"))
  expect(rows()).toEqual(["From the other tab", "Seen in both"])
  server.lastRun.finish()
  await until(() => !seen.a?.isStreaming && localStorage.length === 0)
  expect(run).toBe(server.lastRun)
})

test("another staff member is another conversation", async () => {
  server.save("user", "For Ada")
  render(<Chat key="a" />)
  await until(() => rows().length === 1)
  render(<Chat key="a" staffId="bob" />)
  await until(() => rows().length === 0 && seen.a?.messages.length === 0)
  await until(() => server.asked("GET /api/v1/staff/bob/messages").length === 1)
})
