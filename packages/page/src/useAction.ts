/** An action with its state: what a button shows while it works, and what went wrong. */
import { type StaffstreamError, toStaffstreamError } from "@staffstream/react"
import { useState } from "react"

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
