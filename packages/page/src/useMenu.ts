/** Whether the menu of a narrow screen is open. It is a step of the history, so that Back closes it. */
import { useCallback, useEffect, useState } from "react"

export function useMenu(): [boolean, (isOpen: boolean) => void] {
  const [isOpen, setOpen] = useState(false)
  useEffect(() => {
    const onBack = () => setOpen(history.state?.menu === true)
    window.addEventListener("popstate", onBack)
    return () => window.removeEventListener("popstate", onBack)
  }, [])
  const change = useCallback((wanted: boolean) => {
    setOpen(wanted)
    const isInHistory = history.state?.menu === true
    if (wanted && !isInHistory) history.pushState({ menu: true }, "")
    // A link that was followed has made a step of its own, and left this one behind it.
    else if (!wanted && isInHistory) history.back()
  }, [])
  return [isOpen, change]
}
