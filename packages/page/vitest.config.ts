import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 20_000 } },
    include: [
      process.env.LOOK ? "tests/*.look.ts" : process.env.BENCH ? "bench/*.bench.ts" : "tests/*.test.ts",
    ],
    // One browser at a time: two cores are few.
    fileParallelism: false,
  },
})
