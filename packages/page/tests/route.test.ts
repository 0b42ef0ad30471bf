import { expect, test } from "vitest"
import { type Route, readRoute, writeRoute } from "../src/route.ts"

const routes: Route[] = [
  { staffId: null, conversationId: null, panel: null, focus: null, message: null },
  { staffId: "s", conversationId: null, panel: null, focus: null, message: null },
  { staffId: "s", conversationId: "c", panel: "memory", focus: null, message: null },
  { staffId: null, conversationId: null, panel: "why", focus: "m", message: null },
  { staffId: "s", conversationId: "c", panel: null, focus: null, message: "m" },
  { staffId: "s", conversationId: null, panel: "graph", focus: "Bergen / Åsane #1 100%", message: null },
]

test.each(routes)("an address says where one is, and is read back: %j", route => {
  expect(readRoute(writeRoute(route))).toEqual(route)
})

test("an address that nobody wrote is read as far as it goes", () => {
  expect(readRoute("")).toEqual(routes[0])
  expect(readRoute("#/s/c/nonsense/x").panel).toBeNull()
  expect(readRoute("#/%E0%A4%A").staffId).toBe("%E0%A4%A")
})
