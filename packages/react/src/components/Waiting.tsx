/** Three dots, what they stand for, and after a while how long it has lasted. */
import { useEffect, useState } from "react"

const PATIENCE_S = 3

export function Waiting({ note, since }: { note: string; since: number | null }) {
  const [now, setNow] = useState(() => Date.now())
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000)
    return () => clearInterval(timer)
  }, [])
  const seconds = Math.floor((now - (since ?? now)) / 1000)
  return (
    <p className="ss-waiting">
      <span className="ss-dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      {note}
      {seconds >= PATIENCE_S && ` · ${seconds} s`}
    </p>
  )
}
