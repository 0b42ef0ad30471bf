/**
 * What a reply cost, by the list prices of Claude's API in November 2026, in US dollars for a million tokens. An
 * estimate for the reader, not a bill: discounts and longer prompts' bands are left out, and an unknown model has
 * no price.
 */
import type { Usage } from "@staffstream/react"

interface Price {
  input: number
  output: number
  cacheRead: number
}

const PRICES: readonly [RegExp, Price][] = [
  [/^claude-(fable|mythos)-5-1/, { input: 10, output: 50, cacheRead: 0.25 }],
  [/^claude-(fable|mythos)-5$/, { input: 10, output: 50, cacheRead: 1 }],
  [/^claude-opus-5-5/, { input: 4, output: 20, cacheRead: 0.2 }],
  [/^claude-opus-(5|4-[5-8])/, { input: 5, output: 25, cacheRead: 0.5 }],
  [/^claude-sonnet-5-5/, { input: 2, output: 10, cacheRead: 0.1 }],
  [/^claude-sonnet-5$/, { input: 2, output: 10, cacheRead: 0.2 }],
  [/^claude-sonnet-4-[56]/, { input: 3, output: 15, cacheRead: 0.3 }],
  [/^claude-haiku-5-5/, { input: 0.1, output: 0.5, cacheRead: 0.01 }],
  [/^claude-haiku-4-5/, { input: 1, output: 5, cacheRead: 0.1 }],
]

const CACHE_WRITE_FACTOR = 1.25

/** Dollars, or null for a model without a known price, the stand-in among them. */
export function estimateCost(
  model: string | null | undefined,
  usage: Usage | null | undefined,
): number | null {
  const price = PRICES.find(([pattern]) => pattern.test(model ?? ""))?.[1]
  if (!price || !usage) return null
  const read = (usage.cache_read_input_tokens ?? 0) * price.cacheRead
  const written = (usage.cache_creation_input_tokens ?? 0) * price.input * CACHE_WRITE_FACTOR
  return (
    ((usage.input_tokens ?? 0) * price.input + read + written + (usage.output_tokens ?? 0) * price.output) /
    1e6
  )
}
