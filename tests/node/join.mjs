// Joins a run's stream with a package that others use:
//   node join.mjs eventsource|eventsource-parser URL
// Each event is one line of JSON on stdout: its data, and its id.

const [reader, url] = process.argv.slice(2)
const tell = (id, data) => process.stdout.write(`${JSON.stringify([id, JSON.parse(data)])}\n`)
const isEnd = (data) => ["done", "error"].includes(JSON.parse(data).type)

if (reader === "eventsource") {
  const { EventSource } = await import("eventsource")
  const source = new EventSource(url)
  source.addEventListener("message", (event) => {
    tell(event.lastEventId, event.data)
    if (isEnd(event.data)) source.close()
  })
} else {
  const { createParser } = await import("eventsource-parser")
  const parser = createParser({
    onEvent: (event) => tell(event.id ?? null, event.data),
    onError: (error) => tell(null, JSON.stringify({ type: "broken", detail: String(error) })),
    onComment: () => {},
  })
  const decoder = new TextDecoder("utf-8", { fatal: true })
  for await (const chunk of (await fetch(url)).body) parser.feed(decoder.decode(chunk, { stream: true }))
}
