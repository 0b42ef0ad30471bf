import { defineConfig } from "vitest/config"

/** The same tests twice: React 19, and React 18 from the folder beside this one. */
const react18 = new URL("../react18/node_modules/", import.meta.url).pathname

/** The guides' code imports the package by its name. */
const src = new URL("./src/", import.meta.url).pathname
const own = [
  { find: /^@staffstream\/react$/, replacement: `${src}index.ts` },
  { find: /^@staffstream\/react\/(client|store)$/, replacement: `${src}$1.ts` },
  { find: /^@staffstream\/react\/styles.css$/, replacement: `${src}styles.css` },
]

export default defineConfig({
  resolve: { alias: own },
  test: {
    testTimeout: 60_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 20_000 } },
    setupFiles: ["tests/setup.ts"],
    projects: [
      { extends: true, test: { name: "core", include: ["tests/*.test.ts"] } },
      { extends: true, test: { name: "react 19", include: ["tests/*.test.tsx"] } },
      {
        extends: true,
        test: { name: "react 18", include: ["tests/*.test.tsx"] },
        resolve: {
          alias: [
            ...own,
            { find: /^react$/, replacement: `${react18}react/index.js` },
            { find: /^react\/(.*)$/, replacement: `${react18}react/$1.js` },
            { find: /^react-dom\/(.*)$/, replacement: `${react18}react-dom/$1.js` },
          ],
        },
      },
    ],
  },
})
