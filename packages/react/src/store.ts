/**
 * One conversation as a snapshot that changes at most once a frame, for any view: nothing here knows React.
 *
 * At most one run is in the making. The first subscriber loads the history and takes up a reply that a reload or
 * another tab left running; the last one to leave only ends the listening. `stop` is what stops a reply.
 */
import type { StaffClient } from "./client.ts"
import { StaffstreamError, toStaffstreamError } from "./errors.ts"
import type { Transport } from "./follow.ts"
import { type Schedule, scheduleFrame } from "./frames.ts"
import { MessageHistory } from "./history.ts"
import { getLiveFeed } from "./live.ts"
import { LiveRun, type LiveRunFields, type Progress, type SendResult } from "./liveRun.ts"
import { type ChatMessage, hideReplaced } from "./messages.ts"
import { findStorage, type Pending, PendingStorage } from "./pending.ts"
import { onHidden, onReturn } from "./reconnect.ts"
import type { DoneEvent, ErrorEvent, Feedback, LiveEvent, MultitaskStrategy, ReplyEvent } from "./types.ts"

export type ChatStatus = "loading" | "ready" | "waiting" | "streaming" | "reconnecting"

export interface ChatSnapshot {
  /** Oldest first; the last may be a reply that grows. */
  messages: readonly ChatMessage[]
  /** `waiting`: sent, and no word yet. */
  status: ChatStatus
  /** True from the moment of sending until the reply has ended. */
  isStreaming: boolean
  error: StaffstreamError | null
  /** Whether `retry` may mend the error. A refused message is simply sent again. */
  canRetry: boolean
  hasOlder: boolean
  /** Null until the server has named it. */
  conversationId: string | null
  /** Figures of the reply in the making, or of the last one made here. */
  progress: Progress | null
}

export interface SendMessageOptions {
  /** While a reply is being made, `reject` (the default) refuses; `interrupt` ends it, keeps its text, and goes on. */
  multitask_strategy?: Exclude<MultitaskStrategy, "enqueue">
}

export interface ChatStoreOptions {
  /** Default: the staff member's default conversation with this user. */
  conversationId?: string | null | undefined
  transport?: Transport | undefined
  /** Asks the server for nothing: for a conversation that is not there yet. */
  isIdle?: boolean | undefined
  /** How many messages a page of history has. Default 50. */
  pageSize?: number | undefined
  /** Where a running reply is remembered over a reload; null for nowhere. Default: `localStorage`. */
  storage?: Storage | null | undefined
  /** When a changed snapshot is handed out. Default: the next animation frame. */
  schedule?: Schedule | undefined
}

const EMPTY: ChatSnapshot = {
  messages: [],
  status: "loading",
  isStreaming: false,
  error: null,
  canRetry: false,
  hasOlder: false,
  conversationId: null,
  progress: null,
}

/** A hidden page lets its stream go after this long: a browser opens only six connections to one server. */
const HIDDEN_MS = 5_000

export class ChatStore {
  readonly #client: StaffClient
  readonly #staffId: string
  readonly #options: ChatStoreOptions
  readonly #storage: PendingStorage
  readonly #listeners = new Set<() => void>()
  #snapshot = EMPTY
  readonly #history: MessageHistory
  #isLoaded = false
  #conversationId: string | null
  #run: LiveRun | null = null
  /** The last run that did not end well, for `retry`. */
  #failed: LiveRun | null = null
  /** The reply that was left with the last subscriber, for where there is no storage. */
  #parked: Pending | null = null
  /** The run that was left while nobody looks; what was shown of it stays until it is taken up again. */
  #left: LiveRun | null = null
  #progress: Progress | null = null
  #error: StaffstreamError | null = null
  /** The error of the last loading: the next one that succeeds takes it away. */
  #loadError: StaffstreamError | null = null
  #frame: Promise<void> | null = null
  #detach: (() => void) | null = null

  constructor(client: StaffClient, staffId: string, options: ChatStoreOptions = {}) {
    this.#client = client
    this.#staffId = staffId
    this.#options = options
    this.#conversationId = options.conversationId ?? null
    this.#history = new MessageHistory(client, staffId, {
      conversationId: this.#conversationId,
      pageSize: options.pageSize ?? 50,
    })
    const storage = options.storage === undefined ? findStorage() : options.storage
    this.#storage = new PendingStorage(
      storage,
      `${client.baseUrl}|${staffId}|${options.conversationId ?? ""}`,
    )
  }

  readonly getSnapshot = (): ChatSnapshot => this.#snapshot

  /** What a server renders: an empty conversation that loads. */
  readonly getServerSnapshot = (): ChatSnapshot => EMPTY

  get isSubscribed(): boolean {
    return this.#listeners.size > 0
  }

  /** Calls back after each change. The first subscriber starts the loading, the last one to leave ends all listening. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    this.#detach ??= this.#attach()
    return () => {
      this.#listeners.delete(listener)
      // React's StrictMode and a change of route subscribe again at once: wait for that.
      setTimeout(() => this.#listeners.size === 0 && this.#detach?.(), 0)
    }
  }

  /** Sends a message and resolves when its reply has ended, however it ended; never rejects. */
  readonly sendMessage = async (content: string, options: SendMessageOptions = {}): Promise<SendResult> => {
    if (content.trim() === "") return this.#refuse("missing_message", "There is nothing to send.")
    const isInterrupting = options.multitask_strategy === "interrupt"
    if (this.#run !== null && !isInterrupting) return this.#refuseBusy(this.#run)
    if (this.#unsent?.fields.content === content) return this.retry()
    return this.#begin({ content, strategy: options.multitask_strategy })
  }

  /** Stops the reply for everyone who follows it; what has been said stays. */
  readonly stop = async (): Promise<void> => {
    const run = this.#run ?? this.#left
    if (run === null || run.isStopping) return
    run.isStopping = true
    if (run.isAccepted) await this.#cancel(run)
    // Neither accepted nor reachable: there is nobody to tell.
    else if (run.isLost) run.leave("stopped")
  }

  /**
   * Takes up what failed: the same submission under its key while nobody knows whether the server has it, the same
   * run while it may be alive, and a new reply to the same message once the run has failed.
   */
  readonly retry = async (): Promise<SendResult> => {
    const failed = this.#failed
    if (this.#run !== null) return this.#refuseBusy(this.#run)
    if (failed === null) return this.#retryLoading()
    if (!failed.isAccepted) return this.#make(failed.again())
    if (failed.isLost) return this.#begin({ runId: failed.reply.id, key: failed.key })
    return this.regenerate(failed.reply.reply_to ?? failed.fields.regenerates ?? failed.reply.id)
  }

  /** Makes another reply to the question behind `messageId`; by default to the last one. */
  readonly regenerate = async (messageId?: string): Promise<SendResult> => {
    if (this.#run !== null) return this.#refuseBusy(this.#run)
    const regenerated = this.#history.messages.findLast(message => !messageId || message.id === messageId)
    const regenerates = messageId ?? regenerated?.id
    if (regenerates === undefined) return this.#refuse("missing_message", "There is no reply to make again.")
    const replyTo = regenerated?.reply_to ?? regenerates
    return this.#begin({ regenerates, replyTo })
  }

  /** Joins a run, by default the one that a reload or a lost connection left; null when there is none. */
  readonly resume = async (runId?: string): Promise<SendResult | null> => {
    if (this.#run !== null) return this.#run.result
    if (runId !== undefined) return this.#begin({ runId })
    const pending = this.#storage.read() ?? this.#parked
    this.#parked = null
    if (pending !== null) return this.#resume(pending)
    return this.#failed?.isLost ? this.retry() : null
  }

  /** Puts the page of history before the oldest message in front of it. */
  readonly loadOlder = (): Promise<void> => this.#load(() => this.#history.loadOlder())

  /** Reads the newest page again, so that what other tabs and devices wrote is here too. */
  readonly refresh = (): Promise<void> => this.#load(() => this.#history.refresh())

  /** Rates a reply; shown at once, taken back when the server does not get it. */
  readonly sendFeedback = async (messageId: string, feedback: Feedback): Promise<void> => {
    const before = this.#history.messages.find(message => message.id === messageId)?.feedback ?? null
    this.#patch(messageId, { feedback })
    try {
      await this.#client.sendFeedback(this.#staffId, messageId, feedback)
    } catch (thrown) {
      this.#patch(messageId, { feedback: before })
      this.#tell(toStaffstreamError(thrown))
    }
  }

  readonly dismissError = (): void => this.#tell(null)

  // ── being subscribed to ────────────────────────────────────────────────────────────────────────────────────────

  #attach(): () => void {
    if (this.#options.isIdle) return () => undefined
    const unhooks = [
      onReturn(() => void this.#catchUp()),
      onHidden(HIDDEN_MS, () => this.#run?.leave("detached")),
      getLiveFeed(this.#client).subscribe(event => this.#onLiveEvent(event)),
      this.#storage.onChange(pending => {
        // Until the run is known the submission is the other tab's alone.
        if (pending === null || pending.runId !== null) void this.#catchUp()
      }),
    ]
    void this.#catchUp()
    return () => {
      this.#detach = null
      for (const unhook of unhooks) unhook()
      this.#run?.leave("detached")
    }
  }

  /** Brings an idle store up to date: what was said elsewhere, and the reply that is being made. */
  async #catchUp(withUnsent = true): Promise<void> {
    if (this.#run !== null) return
    await this.refresh()
    const parked = this.#parked
    // A submission that the server has not acknowledged may be another tab's, which is about to send it.
    if (withUnsent || this.#storage.read()?.runId) return void (await this.resume())
    this.#parked = null
    if (parked !== null && this.#run === null) await this.#resume(parked)
  }

  /** Something changed in this conversation elsewhere, or events were missed. */
  #onLiveEvent({ type, staff_id, conversation_id, run_id }: LiveEvent): void {
    const isHere = staff_id === this.#staffId && conversation_id === this.#conversationId
    // The default conversation has no id before its first message.
    const isFirst = staff_id === this.#staffId && this.#conversationId === null
    if (this.#run !== null || !(type === "reset" || isHere || isFirst)) return
    if (type === "run.started" && run_id)
      this.#parked = { key: run_id, runId: run_id, content: null, at: Date.now() }
    if (document.visibilityState === "hidden") return
    if (type === "reset" || type.startsWith("run.") || type === "conversation.changed")
      void this.#catchUp(false)
  }

  async #resume({ key, runId, content }: Pending): Promise<SendResult | null> {
    if (runId === null) return content === null ? null : this.#begin({ key, content })
    if (this.#history.has(runId)) return this.#forget(key)
    return this.#begin({ key, runId, isRemembered: true })
  }

  #forget(key: string): null {
    if (this.#storage.read()?.key === key) this.#storage.write(null)
    return null
  }

  // ── one run ───────────────────────────────────────────────────────────────────────────────────────────────────

  #begin(fields: Omit<LiveRunFields, "staffId" | "conversationId">): Promise<SendResult> {
    return this.#make(
      new LiveRun({ ...fields, staffId: this.#staffId, conversationId: this.#conversationId }),
    )
  }

  #make(run: LiveRun): Promise<SendResult> {
    if (this.#run !== null) this.#interrupt(this.#run)
    if (this.#left?.reply.id === run.reply.id) run.takeOver(this.#left)
    this.#left = null
    this.#run = run
    this.#failed = null
    this.#error = null
    this.#storage.write(run.pending)
    void this.#change()
    run.result = this.#follow(run)
      .catch(thrown => this.#giveUp(run, thrown))
      .then(async result => {
        await this.#change()
        return result
      })
    return run.result
  }

  /** The server ends the interrupted run and keeps its text; until it is read from there, ours stands for it. */
  #interrupt(run: LiveRun): void {
    run.leave("interrupted")
    this.#history.keep(run.user, run.reply.content === "" ? null : { ...run.reply, status: "cancelled" })
  }

  async #follow(run: LiveRun): Promise<SendResult> {
    for await (const event of this.#events(run)) {
      run.signal.throwIfAborted()
      if (event.type === "done" || event.type === "error") return this.#settle(run, event)
      run.apply(event)
      if (event.type === "accepted") this.#accept(run, event.conversationId)
      void this.#change()
    }
    throw new TypeError("a reply ended without its terminal event")
  }

  #events(run: LiveRun): AsyncGenerator<ReplyEvent, void> {
    const { content, regenerates, strategy } = run.fields
    const { transport } = this.#options
    const options = { signal: run.signal, transport, idempotencyKey: run.key, withStatus: true }
    if (run.isAccepted) return this.#client.joinRun(this.#staffId, run.reply.id, options)
    if (regenerates) return this.#client.regenerate(this.#staffId, regenerates, options)
    const conversationId = this.#options.conversationId
    const message = {
      content: content ?? "",
      ...(conversationId && { conversation_id: conversationId }),
      ...(strategy && { multitask_strategy: strategy }),
    }
    return this.#client.sendMessage(this.#staffId, message, options)
  }

  #accept(run: LiveRun, conversationId: string | null): void {
    this.#conversationId = conversationId ?? this.#conversationId
    this.#storage.write(run.pending)
    if (run.isStopping) void this.#cancel(run)
  }

  async #cancel(run: LiveRun): Promise<void> {
    try {
      await this.#client.cancelRun(this.#staffId, run.reply.id)
    } catch (thrown) {
      run.isStopping = false
      this.#tell(toStaffstreamError(thrown))
    }
  }

  /** The run becomes history: the question, and what there is of the answer. */
  #settle(run: LiveRun, event: DoneEvent | ErrorEvent): SendResult {
    const result = run.end(event)
    this.#history.keep(run.user, result.message)
    this.#close(run, result.error)
    return result
  }

  /** The reply did not come to its end here: refused, out of reach, or nobody listens. */
  #giveUp(run: LiveRun, thrown: unknown): SendResult {
    if (run.leaveCause !== null) return this.#leave(run)
    const error = toStaffstreamError(thrown)
    run.isLost = error.isConnectionLoss
    // A run that failed before its first word was accepted all the same: its question is saved.
    run.isAccepted ||= error.userMessageId !== null
    if (run.isAccepted) {
      run.keepQuestion(error.userMessageId)
      run.reply = { ...run.reply, reply_to: run.reply.reply_to ?? error.userMessageId }
      this.#history.keep(run.user)
    }
    // A remembered run goes with its conversation or its database: nothing that anyone here asked for has failed.
    this.#close(run, run.fields.isRemembered && error.code === "not_found" ? null : error)
    if (error.code === "conversation_busy" && error.runId !== null) void this.#joinOther(error.runId, error)
    return { status: run.isAccepted || run.isLost ? "failed" : "refused", message: null, error }
  }

  #leave(run: LiveRun): SendResult {
    if (run.leaveCause === "stopped") this.#close(run, null)
    if (run.leaveCause === "detached") {
      this.#parked = run.pending
      this.#left = run.isAccepted ? run : null
    }
    if (this.#run === run) this.#run = null
    return { status: run.leaveCause === "detached" ? "detached" : "cancelled", message: null, error: null }
  }

  /** Another tab or device is being answered here: show that, and keep saying why ours was refused. */
  async #joinOther(runId: string, error: StaffstreamError): Promise<void> {
    await this.refresh()
    if (this.#run !== null) return
    void this.#begin({ runId })
    this.#tell(error)
  }

  #close(run: LiveRun, error: StaffstreamError | null): void {
    this.#run = null
    this.#failed = error === null ? null : run
    this.#error = error
    this.#progress = run.progress
    // A reply out of reach may still be made: the next visit looks for it.
    if (!error?.isConnectionLoss) this.#forget(run.key)
  }

  // ── the rest ───────────────────────────────────────────────────────────────────────────────────────────────────

  async #load(load: () => Promise<void>): Promise<void> {
    try {
      await load()
      this.#conversationId = this.#history.messages.at(-1)?.conversation_id ?? this.#conversationId
      if (this.#error === this.#loadError) this.#error = null
      this.#loadError = null
    } catch (thrown) {
      this.#error = this.#loadError = toStaffstreamError(thrown)
    }
    this.#isLoaded = true
    await this.#change()
  }

  #patch(messageId: string, change: Partial<ChatMessage>): void {
    this.#history.patch(messageId, change)
    void this.#change()
  }

  #refuseBusy(run: LiveRun): SendResult {
    return this.#refuse("conversation_busy", "A reply is still being made.", run.progress.runId)
  }

  #refuse(code: string, detail: string, runId: string | null = null): SendResult {
    const error = new StaffstreamError(detail, { code, runId })
    this.#tell(error)
    return { status: "refused", message: null, error }
  }

  #tell(error: StaffstreamError | null): void {
    this.#error = error
    void this.#change()
  }

  async #retryLoading(): Promise<SendResult> {
    if (this.#loadError === null) return this.#refuse("missing_message", "There is nothing to try again.")
    await this.refresh()
    return { status: this.#loadError === null ? "done" : "failed", message: null, error: this.#loadError }
  }

  get #canRetry(): boolean {
    if (!this.#error?.retryable || this.#run !== null) return false
    return this.#error === this.#loadError || this.#failed?.isAccepted === true || this.#unsent !== null
  }

  /** A submission of which nobody knows whether the server has it. */
  get #unsent(): LiveRun | null {
    return this.#failed?.isLost && !this.#failed.isAccepted ? this.#failed : null
  }

  /** What is shown of a run that was lost: the question while it may not have arrived, the answer as far as it came. */
  get #leftover(): ChatMessage[] {
    const { isLost, isAccepted, user, reply } = this.#failed ?? {}
    if (!isLost || !reply) return []
    if (!isAccepted) return user ? [user] : []
    return reply.content === "" ? [] : [{ ...reply, status: "interrupted" }]
  }

  /** Hands out a new snapshot in the next frame, and resolves then. */
  #change(): Promise<void> {
    this.#frame ??= new Promise(resolve => {
      const schedule = this.#options.schedule ?? scheduleFrame
      schedule(() => {
        this.#frame = null
        this.#snapshot = this.#compose()
        for (const listener of this.#listeners) listener()
        resolve()
      })
    })
    return this.#frame
  }

  #compose(): ChatSnapshot {
    if (this.#left && this.#history.has(this.#left.reply.id)) this.#left = null
    const run = this.#run
    const making = (run ?? this.#left)?.messages ?? this.#leftover
    const ids = new Set(making.map(message => message.id))
    const beside = this.#history.messages.filter(message => !ids.has(message.id))
    return {
      messages: hideReplaced(making.length === 0 ? this.#history.messages : [...beside, ...making]),
      status: this.#status(run),
      isStreaming: (run ?? this.#left) !== null,
      error: this.#error,
      canRetry: this.#canRetry,
      hasOlder: this.#history.hasOlder,
      conversationId: this.#conversationId,
      progress: run?.progress ?? this.#progress,
    }
  }

  #status(run: LiveRun | null): ChatStatus {
    if (run === null && this.#left) return "streaming"
    if (run === null) return this.#isLoaded ? "ready" : "loading"
    if (run.isLost) return "reconnecting"
    return run.reply.content === "" ? "waiting" : "streaming"
  }
}
