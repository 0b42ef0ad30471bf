/** Where the key goes, when the server asks for one. */
import { type FormEvent, useState } from "react"
import { Icon } from "./icons.tsx"

export function KeyForm({
  wasWrong,
  onEnter,
}: {
  wasWrong: boolean
  onEnter: (key: string, isKept: boolean) => void
}) {
  const [key, setKey] = useState("")
  const [isKept, setKept] = useState(false)
  const isSendable = /^[\x20-\xff]*$/.test(key.trim())
  const enter = (event: FormEvent) => {
    event.preventDefault()
    // A line end from the clipboard is no part of a key, and no header may hold one.
    if (key.trim() !== "" && isSendable) onEnter(key.trim(), isKept)
  }
  return (
    <main className="lobby">
      <form className="card" onSubmit={enter}>
        <h1>
          <Icon name="key" /> staffstream
        </h1>
        <p>This server asks for a key. Its operator makes one with</p>
        <pre>staffstream keys create NAME</pre>
        {wasWrong && (
          <p className="error-text" role="alert">
            The server does not accept this key.
          </p>
        )}
        {!isSendable && (
          <p className="error-text" role="alert">
            A key has Latin letters, digits and signs only. Copy it again.
          </p>
        )}
        <label>
          Key
          <input
            type="password"
            value={key}
            autoComplete="current-password"
            onChange={event => setKey(event.target.value)}
          />
        </label>
        <label className="check">
          <input type="checkbox" checked={isKept} onChange={event => setKept(event.target.checked)} />
          Keep me signed in on this device
        </label>
        <button type="submit" className="primary" disabled={key.trim() === "" || !isSendable}>
          Enter
        </button>
      </form>
    </main>
  )
}
