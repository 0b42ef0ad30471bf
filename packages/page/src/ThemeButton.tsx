import { IconButton } from "./parts.tsx"
import { type Theme, useTheme } from "./theme.ts"

const NEXT = { system: "light", light: "dark", dark: "system" } as const
const ICONS = { system: "system", light: "sun", dark: "moon" } as const

export function ThemeButton() {
  const [theme, setTheme] = useTheme()
  const next: Theme = NEXT[theme]
  return (
    <IconButton
      icon={ICONS[theme]}
      label={`Theme: ${theme}. Change to ${next}`}
      onClick={() => setTheme(next)}
    />
  )
}
