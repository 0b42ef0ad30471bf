"""The server's Prometheus metrics.

Each app has its own registry, so that two apps in one process do not share counts. Nothing here runs per token: a reply
is counted once, from its row, when it has ended; queue lengths and file sizes are read at each scrape. docs/ops holds a
dashboard and alert rules for these metrics.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from staffstream.domain import parse_time
from staffstream.errors import InternalError, StorageFull, StorageUnavailable, UpstreamKeyRefused

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
_SLOW = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
_REPLY = (0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600)
_GAPS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1)
_TOKENS = (100, 250, 500, 1000, 2000, 4000, 6000, 8000, 16000, 32000, 100000)
_FEW = (0, 1, 2, 4, 8, 12, 16, 24, 32)
_TOKEN_KINDS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_creation_input_tokens": "cache_write",
    "cache_read_input_tokens": "cache_read",
}


class Metrics:
    """The metrics of one app. Attributes are Prometheus's own objects; whoever knows a number gives it to them. `modes`
    are the values that the label `mode` will have.
    """

    def __init__(self, modes: Iterable[str] = ()) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"staffstream_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"staffstream_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"staffstream_{name}", text, labels, registry=registry, buckets=buckets)

        # replies
        self.first_token = histogram(
            "first_token_seconds", "From a saved question to the first token of its reply.", _SLOW, "mode"
        )
        self.stages = histogram(
            "stage_seconds",
            "The stages before the first token: accept, queue, build, claude (request to start of reply), think.",
            (*_QUICK, 10, 30),
            "stage",
            "mode",
        )
        self.token_gap = histogram("token_gap_seconds", "Mean time between the tokens of a reply.", _GAPS)
        self.replies = histogram("reply_seconds", "From a saved question to the end of its run.", _REPLY, "mode")
        self.runs = counter(
            "runs", "Runs by how they ended; code is empty unless they failed.", "mode", "state", "code"
        )
        self.active = gauge("active_runs", "Replies that are being made by this process.", "mode")
        self.subscribers = gauge("subscribers", "Clients that follow those replies.")
        self.problems = counter("problems", "Requests that were answered with a problem.", "status", "code")
        # tokens and cost
        self.tokens = counter("tokens", "Tokens by Claude's count.", "model", "kind")
        self.cost = counter("cost_dollars", "What those tokens cost by list price, in US dollars.", "model")
        self.context = histogram("context_tokens", "Size of a prompt, by section and in all.", _TOKENS, "section")
        # memory
        self.recall = histogram("recall_seconds", "Searching memory and graph for one reply.", _QUICK)
        self.recalled = histogram("recalled_memories", "Memories in one prompt.", _FEW)
        self.learned = counter("learned_facts", "Facts that extraction found to be new.")
        self.rejected = counter("rejected_facts", "Statements that extraction rejected, such as those without a quote.")
        # waiting work
        self.queued = gauge("queued_runs", "Replies that are due and not begun.")
        self.queue_age = gauge("queue_age_seconds", "How long the oldest due reply or job has been waiting.")
        self.jobs_due = gauge("jobs_due", "Background jobs that are due and not begun.", "kind")
        self.jobs_dead = gauge("jobs_dead", "Background jobs that were given up.", "kind")
        self.jobs = counter(
            "jobs",
            "Attempts at background jobs; outcome is done or an error code. kind deliver is webhooks.",
            "kind",
            "outcome",
        )
        # the database
        self.commits = histogram("commit_seconds", "A commit with all transactions in it.", _QUICK)
        self.batches = histogram(
            "commit_transactions", "How many transactions shared a commit.", (1, 2, 4, 8, 16, 32, 64, 128, 256)
        )
        self.wal = gauge("wal_bytes", "Size of the write-ahead log.")
        self.file = gauge("database_bytes", "Size of the database file.")
        ProcessCollector(registry=registry)
        self._begin_at_zero(modes)

    def _begin_at_zero(self, modes: Iterable[str]) -> None:
        """Make the series that alerts watch: a counter that appears with its first count has not increased, to
        Prometheus, so the first failure would go unseen.
        """
        for mode in modes:
            self.runs.labels(mode, "done", "")
            for failure in (UpstreamKeyRefused, InternalError):
                self.runs.labels(mode, "failed", failure.code)
        for error in (StorageFull, StorageUnavailable, InternalError):
            self.problems.labels(error.status, error.code)

    @contextlib.contextmanager
    def time_stage(self, stage: str, mode: str) -> Iterator[None]:
        """Record how long the block takes, if it succeeds."""
        started = time.perf_counter()
        yield
        self.stages.labels(stage, mode).observe(time.perf_counter() - started)

    def note_spending(self, model: str, usage: Mapping[str, int], cost_usd: float) -> None:
        """Count the tokens of one request to Claude, and their price."""
        for name, kind in _TOKEN_KINDS.items():
            if usage.get(name):
                self.tokens.labels(model, kind).inc(usage[name])
        self.cost.labels(model).inc(cost_usd)

    def note_learned(self, facts: int, rejected: int) -> None:
        """Count the new and the rejected facts of one extraction."""
        self.learned.inc(facts)
        self.rejected.inc(rejected)

    def note_job(self, kind: str, outcome: str) -> None:
        """Count an attempt at a background job."""
        self.jobs.labels(kind, outcome).inc()

    def note_commit(self, transactions: int, seconds: float) -> None:
        """Record a commit of the database."""
        self.batches.observe(transactions)
        self.commits.observe(seconds)

    def note_waiting(self, queued: int, oldest: str, jobs: Mapping[str, tuple[int, int]]) -> None:
        """Set the waiting work: the number of due replies, the RFC 3339 time at which the oldest work became due, and
        (due, dead) jobs by kind.
        """
        self.queued.set(queued)
        self.queue_age.set(max(0.0, (datetime.now(UTC) - parse_time(oldest)).total_seconds()))
        for kind, (due, dead) in jobs.items():
            self.jobs_due.labels(kind).set(due)
            self.jobs_dead.labels(kind).set(dead)

    def note_files(self, sizes: Mapping[str, int]) -> None:
        """Set the sizes of the database's files in bytes: `file` and `wal`, 0 for a missing file."""
        self.file.set(sizes.get("file", 0))
        self.wal.set(sizes.get("wal", 0))

    def export(self) -> bytes:
        """All metrics in Prometheus's text format. Can be called from any thread."""
        return generate_latest(self._registry)
