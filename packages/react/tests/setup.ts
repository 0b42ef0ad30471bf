/** A warning is an error: React tells its own by `console.error`. */
import { afterEach, beforeEach, expect, vi } from "vitest"

const complain = vi.spyOn(console, "error")

beforeEach(() => {
  complain.mockClear()
})
afterEach(() => {
  expect(complain.mock.calls).toEqual([])
})
