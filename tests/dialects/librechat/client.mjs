// A chat of LibreChat's: its agents code, set up as its server does for an OpenAI endpoint.
//   node client.mjs URL CODE
// The code calls tell(value) for each thing that the test is to know: one line of JSON on stdout.

import { randomUUID } from "node:crypto"
import { AIMessage, HumanMessage } from "@langchain/core/messages"
import { createContentAggregator, GraphEvents, ModelEndHandler, Providers, Run, TitleMethod } from "@librechat/agents"

const [url, code] = process.argv.slice(2)
const tell = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)
const CONTENT_EVENTS = [
  GraphEvents.ON_RUN_STEP,
  GraphEvents.ON_RUN_STEP_DELTA,
  GraphEvents.ON_RUN_STEP_COMPLETED,
  GraphEvents.ON_MESSAGE_DELTA,
  GraphEvents.ON_REASONING_DELTA,
]

/** A chat that keeps its own history, as LibreChat does, and sends it whole with each message. */
class Chat {
  constructor({ headers = {} } = {}) {
    this.history = []
    this.configuration = { baseURL: url, defaultHeaders: headers }
  }

  /** The reply's parts and usage. `onText` is called with each piece; `signal` stops it. */
  async send(content, { onText = () => {}, signal } = {}) {
    const { contentParts, aggregateContent } = createContentAggregator()
    const usage = []
    const customHandlers = { [GraphEvents.CHAT_MODEL_END]: new ModelEndHandler(usage) }
    for (const event of CONTENT_EVENTS) {
      customHandlers[event] = {
        handle: (name, data) => {
          aggregateContent({ event: name, data })
          if (name === GraphEvents.ON_MESSAGE_DELTA) {
            for (const part of data.delta.content) onText(part.text)
          }
        },
      }
    }
    this.run = await Run.create({
      runId: randomUUID(),
      graphConfig: { type: "standard", llmConfig: this.model("Ada", true) },
      returnContent: true,
      customHandlers,
    })
    this.history.push(new HumanMessage(content))
    const config = { configurable: { thread_id: "unused" }, streamMode: "values", version: "v2", signal }
    let error = null
    try {
      await this.run.processStream({ messages: [...this.history] }, config)
    } catch (thrown) {
      error = thrown.message
    }
    this.content = content
    this.contentParts = contentParts
    const text = contentParts.filter((part) => part?.type === "text").map((part) => part.text).join("")
    const reasoning = contentParts.filter((part) => part?.type === "think").map((part) => part.think).join("")
    if (text) this.history.push(new AIMessage(text))
    return { text, reasoning, usage, error }
  }

  /** The title that LibreChat asks the task model for after the first reply. */
  async title() {
    const { title } = await this.run.generateTitle({
      provider: Providers.OPENAI,
      inputText: this.content,
      contentParts: this.contentParts,
      titleMethod: TitleMethod.COMPLETION,
      clientOptions: this.model("Ada:temporary", false),
      chainOptions: {},
    })
    return title
  }

  model(model, streaming) {
    return { provider: Providers.OPENAI, apiKey: "unused", model, streaming, streamUsage: true, maxRetries: 0,
      configuration: this.configuration }
  }
}

const AsyncFunction = (async () => {}).constructor
await new AsyncFunction("tell", "Chat", code)(tell, Chat)
process.exit() // its tracing would hold the process for half a minute
