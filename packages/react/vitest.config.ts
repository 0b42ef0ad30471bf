import { defineConfig } from "vitest/config"

/** The same tests twice: React 19, and React 18 from the folder beside this one. */
const react18 = new URL("../react18/node_modules/", import.meta.url).pathname

export default defineConfig({
  test: {
    testTimeout: 20_000,
    projects: [
      { extends: true, test: { name: "core", include: ["tests/*.test.ts"] } },
      { extends: true, test: { name: "react 19", include: ["tests/*.test.tsx"] } },
      {
        extends: true,
        test: { name: "react 18", include: ["tests/*.test.tsx"] },
        resolve: {
          alias: [
            { find: /^react$/, replacement: `${react18}react/index.js` },
            { find: /^react\/(.*)$/, replacement: `${react18}react/$1.js` },
            { find: /^react-dom\/(.*)$/, replacement: `${react18}react-dom/$1.js` },
          ],
        },
      },
    ],
  },
})
