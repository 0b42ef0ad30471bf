/**
 * Everything that can go wrong, as one class with a code to switch on and `retryable` to decide by.
 *
 * The server's own codes pass through unchanged (`not_found`, `conversation_busy`, `upstream_overloaded`, …).
 * The browser adds four: `connection_lost` (no answer, or one that broke off), `bad_response` (an answer that is not
 * staffstream's), `missing_message` (nothing to send, retry or regenerate) and `client_error` (a mistake of this code).
 */
export class StaffstreamError extends Error {
  override readonly name = "StaffstreamError"
  readonly code: string
  /** Whether trying the same thing again may help. */
  readonly retryable: boolean
  /** The HTTP status; 0 when no answer came, 200 when the error arrived in the stream. */
  readonly status: number
  /** How long the server asks to wait, in milliseconds. */
  readonly retryAfterMs: number | null
  /** The run that failed, or the one that keeps the conversation busy. */
  readonly runId: string | null
  /** The user's message, when the server had saved it before it failed. */
  readonly userMessageId: string | null
  /** What to quote to the operator: it is in the server's log. */
  readonly requestId: string | null
  /** What is wrong in the fields of a refused body; `pointer` is RFC 6901, e.g. `/name`. */
  readonly fields: readonly FieldError[]

  constructor(detail: string, fields: ErrorFields) {
    super(detail, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.code = fields.code
    this.retryable = fields.retryable ?? false
    this.status = fields.status ?? 0
    this.retryAfterMs = fields.retryAfterMs ?? null
    this.runId = fields.runId ?? null
    this.userMessageId = fields.userMessageId ?? null
    this.requestId = fields.requestId ?? null
    this.fields = fields.fields ?? []
  }

  /** True when no answer came, so that nobody knows whether the server got the request. */
  get isConnectionLoss(): boolean {
    return this.code === "connection_lost"
  }
}

export interface FieldError {
  pointer: string
  detail: string
}

export interface ErrorFields {
  code: string
  retryable?: boolean
  status?: number
  retryAfterMs?: number | null
  runId?: string | null
  userMessageId?: string | null
  requestId?: string | null
  fields?: readonly FieldError[]
  cause?: unknown
}

export function connectionLost(detail: string, cause?: unknown): StaffstreamError {
  return new StaffstreamError(detail, { code: "connection_lost", retryable: true, cause })
}

/** A `StaffstreamError` from whatever was thrown. Anything else is a mistake of this code, so the browser reports it too. */
export function toStaffstreamError(thrown: unknown): StaffstreamError {
  if (thrown instanceof StaffstreamError) return thrown
  if (typeof reportError === "function") reportError(thrown)
  return new StaffstreamError("Something went wrong in this page.", { code: "client_error", cause: thrown })
}

/**
 * The error that a refusal stands for: staffstream's `application/problem+json`, or whatever a proxy answered.
 *
 * A gateway's 502, 503 or 504 without a problem body says only that nobody was reached behind it, so it counts as
 * a lost connection.
 */
export async function readProblem(response: Response): Promise<StaffstreamError> {
  const problem = isProblem(response) ? await readJson(response) : null
  if (problem === null) return unknownAnswer(response)
  return new StaffstreamError(text(problem.detail) ?? `The server answered ${response.status}.`, {
    code: text(problem.code) ?? "bad_response",
    retryable: typeof problem.retryable === "boolean" ? problem.retryable : isRetryable(response.status),
    status: response.status,
    retryAfterMs: readRetryAfterMs(response),
    runId: text(problem.run_id) ?? response.headers.get("X-Run-Id"),
    userMessageId: text(problem.user_message_id) ?? response.headers.get("X-User-Message-Id"),
    requestId: text(problem.request_id),
    fields: Array.isArray(problem.errors) ? problem.errors : [],
  })
}

function isProblem(response: Response): boolean {
  return /^application\/(problem\+)?json\b/i.test(response.headers.get("Content-Type") ?? "")
}

async function readJson(response: Response): Promise<Record<string, unknown> | null> {
  const body: unknown = await response.json().catch(() => null)
  return typeof body === "object" && body !== null ? (body as Record<string, unknown>) : null
}

function unknownAnswer(response: Response): StaffstreamError {
  if ([502, 503, 504].includes(response.status))
    return connectionLost("The server cannot be reached just now.")
  return new StaffstreamError(`The server answered ${response.status}.`, {
    code: "bad_response",
    retryable: isRetryable(response.status),
    status: response.status,
    retryAfterMs: readRetryAfterMs(response),
  })
}

function isRetryable(status: number): boolean {
  return [408, 409, 429, 502, 503, 504].includes(status)
}

/** Retry-After is either seconds or an HTTP date (RFC 9110, 10.2.3). */
function readRetryAfterMs(response: Response): number | null {
  const value = response.headers.get("Retry-After")
  if (!value) return null
  const waitMs = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - Date.now()
  return Number.isFinite(waitMs) ? Math.max(0, waitMs) : null
}

function text(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null
}
