/**
 * Debian's Chromium under playwright-core. `CHROMIUM` names another one; a machine without any leaves these tests
 * out and says so, except in CI, where that is a failure.
 */
import { existsSync } from "node:fs"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type BrowserContext, type BrowserContextOptions, chromium } from "playwright-core"

const path = process.env.CHROMIUM ?? "/usr/bin/chromium"

export const hasBrowser = existsSync(path) || process.env.CI === "true"

if (!hasBrowser) {
  console.warn(
    "LEFT OUT: the tests in a browser. Install it (apt-get install chromium) or set CHROMIUM to its path.",
  )
}

export interface Browser {
  context: BrowserContext
  close: () => Promise<void>
}

/** A browser with a fresh profile, which asks nobody but the test for anything. */
export async function openBrowser(options: BrowserContextOptions = {}): Promise<Browser> {
  const profile = await mkdtemp(join(tmpdir(), "staffstream-browser-"))
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: path,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    viewport: { width: 1280, height: 860 },
    ...options,
  })
  context.setDefaultTimeout(30_000)
  const close = async () => {
    await context.close()
    await rm(profile, { recursive: true, force: true })
  }
  return { context, close }
}
