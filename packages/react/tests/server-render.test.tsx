import { renderToString } from "react-dom/server"
import { expect, test } from "vitest"
import { useStaffStreaming } from "../src/index.ts"

function Chat() {
  const { messages, status, isStreaming } = useStaffStreaming("ada")
  return <p>{`${status} ${isStreaming} ${messages.length}`}</p>
}

test("a server renders an empty conversation that loads, and asks nobody for anything", () => {
  expect(typeof window).toBe("undefined")
  expect(renderToString(<Chat />)).toBe("<p>loading false 0</p>")
})
