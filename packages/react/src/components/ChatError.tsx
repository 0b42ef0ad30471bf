/** What went wrong, as the server says it, with what can be done about it. */
import { DEFAULT_LABELS, type Labels } from "../labels.ts"
import type { StaffStreaming } from "../useStaffStreaming.ts"

export function ChatError({ chat, labels = DEFAULT_LABELS }: { chat: StaffStreaming; labels?: Labels }) {
  const { error, canRetry, retry, dismissError } = chat
  return (
    <div className="ss-error" role="alert" hidden={error === null}>
      {error && (
        <>
          <p>{error.message}</p>
          {canRetry && (
            <button type="button" onClick={() => void retry()}>
              {labels.retry}
            </button>
          )}
          <button type="button" onClick={dismissError} aria-label={labels.dismiss} title={labels.dismiss}>
            ×
          </button>
        </>
      )}
    </div>
  )
}
