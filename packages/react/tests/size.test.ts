/** What each layer costs a page, minified and compressed, with everything it needs but React; the guide tells it. */
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { build, type Rollup } from "vite"
import { expect, test } from "vitest"

const src = fileURLToPath(new URL("../src/", import.meta.url))

const guide = await readFile(new URL("../../../docs/UPDATE_FRONTEND_GUIDE.md", import.meta.url), "utf8")

const layers = [
  { name: "StaffClient", from: ["client.ts"], limit: 7_000 },
  { name: "ChatStore", from: ["client.ts", "store.ts"], limit: 11_000 },
  { name: "useStaffStreaming", from: ["index.ts"], limit: 11_000 },
  { name: "StaffChat", from: ["index.ts"], limit: 62_000 },
]

test.each(layers)("$name stays below $limit bytes", async ({ name, from, limit }) => {
  const names = from.length > 1 ? ["StaffClient", name] : [name]
  const code = from
    .map((file, index) => `export { ${names[index]} } from ${JSON.stringify(src + file)}`)
    .join("\n")
  const entry = "\0entry"
  const built = (await build({
    configFile: false,
    logLevel: "error",
    mode: "production",
    plugins: [
      {
        name: "entry",
        resolveId: id => (id === "entry" ? entry : null),
        load: id => (id === entry ? code : null),
      },
    ],
    build: {
      write: false,
      target: "es2022",
      minify: true,
      rollupOptions: { input: "entry", external: /^react(\/|$)/, preserveEntrySignatures: "strict" },
    },
  })) as Rollup.RollupOutput
  const bytes = built.output.reduce(
    (sum, part) => sum + (part.type === "chunk" ? gzipSync(part.code).length : 0),
    0,
  )
  console.log(`${name}: ${bytes} bytes`)
  expect(bytes).toBeGreaterThan(2_000)
  expect(bytes).toBeLessThan(limit)
  const [, told] = new RegExp(`\\| \`${name}\`.* \\| ([\\d.]+) kB \\|`).exec(guide) ?? []
  expect(Math.abs(Number(told) * 1000 - bytes), `the guide says ${told} kB`).toBeLessThan(0.05 * bytes)
})
