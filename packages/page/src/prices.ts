/** What a reply cost, by the server's own price list: an estimate for the reader, not a bill. */
import type { Usage } from "@staffstream/react"
import type { ModelPrices } from "./api.ts"

/** Dollars, or null for a model without a known price or one that costs nothing, such as the stand-in. */
export function estimateCost(
  prices: readonly ModelPrices[],
  model: string | null | undefined,
  usage: Usage | null | undefined,
): number | null {
  const fitting = prices.filter(({ name }) => model?.startsWith(name))
  const price = fitting.sort((a, b) => b.name.length - a.name.length)[0]
  if (!price || !usage || price.output === 0) return null
  const read = (usage.cache_read_input_tokens ?? 0) * price.cache_read
  const written = (usage.cache_creation_input_tokens ?? 0) * price.cache_write
  const own = (usage.input_tokens ?? 0) * price.input + (usage.output_tokens ?? 0) * price.output
  return (own + read + written) / 1e6
}
