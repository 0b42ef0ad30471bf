/** Light, dark, or as the system has it. */
import { useEffect, useState } from "react"

export type Theme = "system" | "light" | "dark"

const NAME = "staffstream-theme"

export function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useState(() => (localStorage.getItem(NAME) ?? "system") as Theme)
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme
    else document.documentElement.dataset.theme = theme
    localStorage.setItem(NAME, theme)
  }, [theme])
  return [theme, setTheme]
}
