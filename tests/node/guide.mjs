// Runs a piece of the guide's TypeScript as it stands, with what a page would give it:
//   node guide.mjs FILE BASE_URL STAFF_ID CONTENT
// Each thing that the page would show is one line of JSON on stdout, written when it is shown.

import { readFile } from "node:fs/promises"
import { transform } from "esbuild"

const [file, base, staffId, content] = process.argv.slice(2)
const tell = (what, value) => process.stdout.write(`${JSON.stringify([what, value])}\n`)

const page = {
  staffId,
  content,
  fetch: (path, init) => fetch(base + path, init), // a page's paths are its own host's
  appendToMessage: (piece) => tell("token", piece),
  displayMessage: (text) => tell("message", text),
  fetchMessages: async (id) => (await fetch(`${base}/api/v1/staff/${id}/messages`)).json(),
  console: { log: (_, value) => tell("saved", value), error: (_, value) => tell("error", value) },
}

const { code } = await transform(await readFile(file, "utf8"), { loader: "ts" })
const call = code.includes("function sendStreamingMessage") ? "await sendStreamingMessage(staffId, content)" : ""
const AsyncFunction = (async () => {}).constructor
await new AsyncFunction(...Object.keys(page), `${code}\n${call}`)(...Object.values(page))
