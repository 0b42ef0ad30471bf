/** Copies a text. Only a secure page has `navigator.clipboard`; elsewhere the browser copies a selection. */
export async function copyText(text: string): Promise<boolean> {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text)
      return true
    } catch {
      // Forbidden by a policy, or the page has no focus: try the other way.
    }
  }
  const box = document.createElement("textarea")
  box.value = text
  box.readOnly = true
  box.style.position = "fixed"
  box.style.opacity = "0"
  const focused = document.activeElement
  // Inside an open dialog nothing outside of it can be selected.
  const parent = focused?.closest("dialog") ?? document.body
  parent.append(box)
  box.select()
  const isCopied = document.execCommand("copy")
  box.remove()
  if (focused instanceof HTMLElement) focused.focus()
  return isCopied
}
