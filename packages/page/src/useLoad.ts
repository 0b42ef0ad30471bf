/** Something from the server, asked for again whenever what it depends on changes; the last answer stays until then. */
import { type StaffstreamError, toStaffstreamError } from "@staffstream/react"
import { useCallback, useEffect, useState } from "react"

export interface Loaded<T> {
  data: T | null
  error: StaffstreamError | null
  isLoading: boolean
  reload: () => void
  /** Puts a changed answer in place without asking, e.g. after the server confirmed a change. */
  replace: (change: (data: T) => T) => void
}

export function useLoad<T>(load: (signal: AbortSignal) => Promise<T>, on: readonly unknown[]): Loaded<T> {
  const [state, setState] = useState({
    data: null as T | null,
    error: null as StaffstreamError | null,
    isLoading: true,
  })
  const [round, setRound] = useState(0)
  // biome-ignore lint/correctness/useExhaustiveDependencies: the caller says what the answer depends on
  useEffect(() => {
    const controller = new AbortController()
    setState(known => ({ ...known, isLoading: true }))
    load(controller.signal).then(
      data => setState({ data, error: null, isLoading: false }),
      thrown => {
        if (controller.signal.aborted) return
        setState({ data: null, error: toStaffstreamError(thrown), isLoading: false })
      },
    )
    return () => controller.abort()
  }, [...on, round])
  const reload = useCallback(() => setRound(count => count + 1), [])
  const replace = useCallback((change: (data: T) => T) => {
    setState(known => (known.data === null ? known : { ...known, data: change(known.data) }))
  }, [])
  return { ...state, reload, replace }
}

/** An action with its state: what a button shows while it works, and what went wrong. */
export function useAction<Values extends unknown[]>(
  act: (...values: Values) => Promise<unknown>,
): { run: (...values: Values) => Promise<boolean>; isBusy: boolean; error: StaffstreamError | null } {
  const [state, setState] = useState({ isBusy: false, error: null as StaffstreamError | null })
  const run = async (...values: Values) => {
    setState({ isBusy: true, error: null })
    try {
      await act(...values)
      setState({ isBusy: false, error: null })
      return true
    } catch (thrown) {
      setState({ isBusy: false, error: toStaffstreamError(thrown) })
      return false
    }
  }
  return { run, ...state }
}
