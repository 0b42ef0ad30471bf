import { StrictMode } from "react"
import { createRoot } from "react-dom/client"
import "@staffstream/react/styles.css"
import "./page.css"
import { App } from "./App.tsx"
import { ErrorBoundary } from "./ErrorBoundary.tsx"
import { keepFocus } from "./keepFocus.ts"

const root = document.getElementById("root")
if (root === null) throw new Error("index.html has lost its root")
keepFocus(root)
createRoot(root).render(
  <StrictMode>
    <ErrorBoundary>
      <App />
    </ErrorBoundary>
  </StrictMode>,
)
