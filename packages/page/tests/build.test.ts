import { execFileSync } from "node:child_process"
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, expect, test } from "vitest"

const committed = fileURLToPath(new URL("../../../src/staffstream/page", import.meta.url))
let built: string

beforeAll(async () => {
  built = await mkdtemp(join(tmpdir(), "staffstream-page-"))
  // In a process of its own: vitest's NODE_ENV would put React's development build in.
  const root = fileURLToPath(new URL("..", import.meta.url))
  const vite = fileURLToPath(new URL("bin/vite.js", import.meta.resolve("vite/package.json")))
  const env = { ...process.env, NODE_ENV: "production" }
  execFileSync(process.execPath, [vite, "build", "--outDir", built, "--emptyOutDir"], {
    cwd: root,
    env,
    stdio: "pipe",
  })
})
afterAll(() => rm(built, { recursive: true }))

async function read(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
  const texts = await Promise.all(files.map(file => readFile(file, "utf8")))
  return Object.fromEntries(files.map((file, index) => [relative(folder, file), texts[index] ?? ""]))
}

test("the committed page is what this source builds", async () => {
  const [present, fresh] = [await read(committed), await read(built)]
  expect(Object.keys(present).sort(), "run npm run build and commit src/staffstream/page").toEqual(
    Object.keys(fresh).sort(),
  )
  for (const [name, text] of Object.entries(fresh)) expect(present[name] === text, name).toBe(true)
})

test("the page names nothing outside and nothing inline", async () => {
  const files = await read(built)
  const html = files["index.html"] ?? ""
  expect(html).not.toMatch(/<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=/)
  for (const [, address] of html.matchAll(/(?:src|href)="([^"]+)"/g)) expect(address).toMatch(/^\.\//)
  for (const [name, text] of Object.entries(files)) {
    if (name.endsWith(".css")) expect(text, name).not.toMatch(/url\(|@import/)
  }
})
