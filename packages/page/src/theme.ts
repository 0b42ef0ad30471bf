/** Light, dark, or as the system has it. */
import { useEffect, useState } from "react"
import { kept } from "./storage.ts"

export type Theme = "system" | "light" | "dark"

const NAME = "staffstream-theme"

export function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState(() => (kept.get(NAME) ?? "system") as Theme)
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme
    else document.documentElement.dataset.theme = theme
    kept.set(NAME, theme)
  }, [theme])
  return [theme, setTheme]
}
