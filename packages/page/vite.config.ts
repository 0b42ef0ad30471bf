import { fileURLToPath } from "node:url"
import react from "@vitejs/plugin-react"
import { defineConfig } from "vite"

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))

/**
 * The page is built into the Python package and committed there. Relative addresses, so that it works under
 * whatever prefix the app is mounted at; nothing inline, so that its Content-Security-Policy can be strict.
 */
export default defineConfig({
  base: "./",
  plugins: [react()],
  resolve: { alias: { "@staffstream/react": path("../react/src") } },
  build: {
    outDir: path("../../src/staffstream/page"),
    emptyOutDir: true,
    target: "es2022",
    // As old as `light-dark()`, which the colours are written in.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: { output: { entryFileNames: "assets/[name]-[hash].js" } },
  },
  server: { proxy: { "/api": process.env.STAFFSTREAM_URL ?? "http://127.0.0.1:8001" } },
})
