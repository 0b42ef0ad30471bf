// Runs some code with an official client of a dialect in its hands:
//   node client.mjs ai-sdk|ag-ui|openai URL CODE
// The code calls tell(value) for each thing that the test is to know: one line of JSON on stdout.

const [dialect, url, code] = process.argv.slice(2)
const tell = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)

/** A fetch whose first answer breaks off once this text has come through: in the middle of whatever it is in. */
function cutAfter(text) {
  let cut = false
  return async (input, init) => {
    const response = await fetch(input, init)
    if (cut) return response
    cut = true
    const reader = response.body.getReader()
    let seen = ""
    const body = new ReadableStream({
      async pull(controller) {
        if (seen.includes(text)) {
          controller.error(new TypeError("network error"))
          return reader.cancel()
        }
        const { done, value } = await reader.read()
        if (done) return controller.close()
        const before = seen.length
        seen += Buffer.from(value).toString("latin1")
        const end = seen.indexOf(text)
        controller.enqueue(end < 0 ? value : value.slice(0, end + text.length - before))
      },
    })
    return new Response(body, response)
  }
}

/** Wait until something holds. */
async function until(condition) {
  while (!condition()) await new Promise((done) => setTimeout(done, 2))
}

const tools = { url, tell, until, cutAfter }

if (dialect === "ai-sdk") {
  const { Chat } = await import("@ai-sdk/react")
  const { DefaultChatTransport } = await import("ai")
  const textOf = (message) => message.parts.filter((part) => part.type === "text").map((part) => part.text).join("")
  tools.open = (id, options = {}) => {
    const { fetch: own, messages, ...rest } = options
    const chat = new Chat({ id, messages, transport: new DefaultChatTransport({ api: url, fetch: own, ...rest }) })
    chat.said = () => chat.messages.map(textOf)
    chat.show = () => tell([chat.status, chat.error?.message ?? null, chat.said()])
    return chat
  }
} else if (dialect === "ag-ui") {
  const { HttpAgent } = await import("@ag-ui/client")
  process.on("unhandledRejection", () => {}) // it rejects a second promise, which nobody holds, when a body breaks off
  tools.open = (threadId, options = {}) => {
    const agent = new HttpAgent({ url, threadId, ...options })
    agent.say = (content) => agent.addMessage({ id: crypto.randomUUID(), role: "user", content })
    agent.said = () => agent.messages.map((message) => message.content)
    return agent
  }
} else {
  const { default: OpenAI } = await import("openai")
  tools.client = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0 })
  tools.OpenAI = OpenAI
}

const AsyncFunction = (async () => {}).constructor
await new AsyncFunction(...Object.keys(tools), code)(...Object.values(tools))
