/** Small things that several parts of the page are made of. */
import type { StaffstreamError } from "@staffstream/react"
import { type ButtonHTMLAttributes, type ReactNode, useEffect, useRef } from "react"
import { toHue } from "./format.ts"
import { Icon, type IconName } from "./icons.tsx"

interface IconButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  icon: IconName
  label: string
  /** Shows the label beside the icon, not only to those who ask for it. */
  withText?: boolean
}

export function IconButton({ icon, label, withText = false, className = "", ...rest }: IconButtonProps) {
  return (
    <button
      type="button"
      className={`icon-button ${withText ? "with-text" : ""} ${className}`}
      aria-label={label}
      title={withText ? undefined : label}
      {...rest}
    >
      <Icon name={icon} />
      {withText && label}
    </button>
  )
}

export function Avatar({ name }: { name: string }) {
  const initial = [...name.trim()][0]?.toUpperCase() ?? "?"
  return (
    <span className="avatar" style={{ "--hue": toHue(name) } as React.CSSProperties} aria-hidden="true">
      {initial}
    </span>
  )
}

/** A window over the page; the browser keeps the focus in it and gives it back. */
export function Dialog({
  title,
  onClose,
  children,
}: {
  title: string
  onClose: () => void
  children: ReactNode
}) {
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const element = dialog.current
    const before = document.activeElement
    element?.showModal()
    return () => {
      element?.close()
      if (before instanceof HTMLElement && before.isConnected) before.focus()
    }
  }, [])
  return (
    <dialog ref={dialog} aria-label={title} onCancel={onClose} onClose={onClose}>
      <header className="dialog-head">
        <h2>{title}</h2>
        <IconButton icon="close" label="Close" onClick={onClose} />
      </header>
      {children}
    </dialog>
  )
}

interface ErrorTextProps {
  error: StaffstreamError | null
  /** What the fields of the API are called on the page. */
  names?: Record<string, string>
}

export function ErrorText({ error, names = {} }: ErrorTextProps) {
  if (error === null) return null
  const mistakes = error.fields.map(({ pointer, detail }) => {
    const field = pointer.split("/")[1] ?? ""
    return `${names[field] ?? field.replaceAll("_", " ")}: ${detail.replace(/^Input /, "")}`
  })
  return (
    <p className="error-text" role="alert">
      {mistakes.length > 0 ? mistakes.join(". ") : error.message}
      {error.requestId && mistakes.length === 0 && <small> ({error.requestId})</small>}
    </p>
  )
}

export function Spinner() {
  return <span className="spinner" role="status" aria-label="Loading" />
}
