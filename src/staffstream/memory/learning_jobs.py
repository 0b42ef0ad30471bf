"""The background jobs that learn from saved messages: `extract`, `summarise` and `embed`.

A job reads, asks a model outside any transaction, and returns the function that commits what it learned. The worker
runs that function in the transaction that ends the job.
"""

import logging
from collections.abc import Callable
from typing import cast

from staffstream.domain import Scope, Staff, now_text
from staffstream.errors import UpstreamUnfinished
from staffstream.memory import extraction, summaries
from staffstream.memory.extraction_answers import check_answers
from staffstream.memory.fact_writer import save_extraction
from staffstream.memory.learning import Learning
from staffstream.memory.traits import HalfLives
from staffstream.models.chat import ChatModel, JsonAnswer
from staffstream.models.embeddings import Embedder, EmbedderUnavailable
from staffstream.settings import Settings
from staffstream.storage import jobs, ratios, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.spending import Ledger
from staffstream.storage.vectors import load_unembedded, save_vectors
from staffstream.support.metrics import Metrics
from staffstream.support.tokens import count_tokens

log = logging.getLogger(__name__)

Commit = Callable[[Connection], Callable[[], None] | None]
"""Saves the results of a job; what it returns is called after the commit."""

EMBED_BATCH = 64


class LearningJobs:
    """The handlers of the three jobs."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        chat_model: ChatModel,
        embedder: Embedder,
        learning: Learning,
        ledger: Ledger,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._database = database
        self._chat_model = chat_model
        self._embedder = embedder
        self._learning = learning
        self._metrics = metrics
        self._ledger = ledger
        self._half_lives = HalfLives(settings.memory_half_life_days, settings.latest_half_life_days)

    async def extract(self, job: jobs.Job) -> Commit:
        """Learn facts, entities and relations from a conversation's new messages: one call to the background model."""

        def collect(conn: Connection) -> tuple[extraction.Batch | None, Staff]:
            scope = _load_scope(conn, job)
            batch = extraction.collect_batch(
                conn,
                scope,
                job.subject,
                embed=self._learning.embed_now,
                half_lives=self._half_lives,
                time_zone=self._settings.time_zone,
            )
            return batch, staff.get_staff(conn, scope.staff_id)

        batch, member = await self._database.read(collect)
        if batch is None or not member.memory_enabled:
            return _do_nothing
        if not self._learning.take_asked(job.subject) and self._comes_too_soon(batch):
            return lambda tx: self._learning.schedule_extraction(tx, batch.scope, job.subject)
        taken, answers, paid = await self._ask_facts(batch, member)
        extracted = check_answers(taken, [answer.value for answer in answers], staff=member)

        def commit(tx: Connection) -> Callable[[], None]:
            counts = [self._ledger.record(tx, taken.scope, answer.model, answer.usage) for answer in paid]
            added = save_extraction(tx, taken, extracted, embed=self._learning.embed_now)
            self._learning.request_vectors(tx, taken.scope)
            if taken.more or added is None:
                jobs.enqueue_job(tx, "extract", job.subject, scope_id=taken.scope.id)

            def follow_up() -> None:
                for count in counts:
                    count()
                self._metrics.note_learned(added or 0, extracted.rejected)

            return follow_up

        return commit

    async def _ask_facts(
        self, batch: extraction.Batch, member: Staff
    ) -> tuple[extraction.Batch, list[JsonAnswer], list[JsonAnswer]]:
        """The batch, or the largest beginning of it that the model finishes; the answers about it; all paid answers.

        Of a single message that the model does not finish, even in small parts, only the parts before that count:
        otherwise it would be asked about for ever.
        """
        paid: list[JsonAnswer] = []
        while True:
            answers: list[JsonAnswer] = []
            try:
                for question in extraction.write_questions(batch, staff_name=member.name):
                    answers.append(await self._ask(question))
                    paid.append(answers[-1])
                return batch, answers, paid
            except UpstreamUnfinished:
                if (smaller := batch.halve()) is None:
                    log.warning("message %s is not learned from whole: no answer ended", batch.messages[0].id)
                    return batch, answers, paid
                batch = smaller

    async def _ask(self, question: str) -> JsonAnswer:
        return await self._chat_model.ask_json(
            model=self._settings.background_model,
            system=extraction.INSTRUCTIONS,
            question=question,
            schema=extraction.SCHEMA,
            max_tokens=extraction.MAX_OUTPUT_TOKENS,
        )

    def _comes_too_soon(self, batch: extraction.Batch) -> bool:
        """Whether the job was enqueued again while it ran and finds only a few recent messages: they wait for more."""
        quiet_since = now_text(-self._settings.extract_idle_s)
        few = len(batch.messages) < self._settings.extract_every_messages and not batch.more
        return few and batch.messages[-1].created_at > quiet_since

    async def summarise(self, job: jobs.Job) -> Commit:
        """Fold a conversation's oldest turns into its summary: one call to the background model."""

        def plan(conn: Connection) -> tuple[summaries.Fold | None, Staff]:
            scope = _load_scope(conn, job)
            member = staff.get_staff(conn, scope.staff_id)
            budget = member.context_budget_tokens or self._settings.context_budget_tokens
            known = ratios.load_token_ratios(conn).get(member.model or self._settings.model)
            ratio = known.ratio if known else 1.2
            budget -= min(budget * 3 // 4, int(count_tokens(member.persona) * ratio))  # what the persona leaves
            return summaries.plan_fold(conn, scope, job.subject, budget_tokens=budget, ratio=ratio), member

        fold, member = await self._database.read(plan)
        if fold is None:
            return _do_nothing
        model = self._settings.background_model
        answer = await self._chat_model.ask_json(
            model=model,
            system=summaries.write_instructions(fold),
            question=summaries.write_question(fold, staff=member),
            schema=summaries.SCHEMA,
            max_tokens=summaries.MAX_OUTPUT_TOKENS,
        )

        def commit(tx: Connection) -> Callable[[], None]:
            count = self._ledger.record(tx, fold.scope, answer.model, answer.usage)
            if summaries.save_summary(tx, fold, answer.value, model=model) and fold.more:
                jobs.enqueue_job(tx, "summarise", job.subject, scope_id=fold.scope.id)
            return count

        return commit

    async def embed(self, job: jobs.Job) -> Commit:
        """Add vectors to memories that were saved without: one call to the embedder for a batch."""

        def load(conn: Connection) -> tuple[Scope, list[tuple[int, str]]]:
            scope = _load_scope(conn, job)
            return scope, load_unembedded(conn, scope, limit=EMBED_BATCH)

        scope, waiting = await self._database.read(load)
        if not waiting:
            return _do_nothing
        try:
            vectors = await self._embedder.embed([text for _, text in waiting], kind="document")
        except EmbedderUnavailable:
            self._learning.embedder_answers = False
            raise
        self._learning.embedder_answers = True

        def commit(tx: Connection) -> None:
            save_vectors(tx, scope, [number for number, _ in waiting], vectors)
            if len(waiting) == EMBED_BATCH:
                jobs.enqueue_job(tx, "embed", job.subject, scope_id=scope.id)

        return commit


def _load_scope(conn: Connection, job: jobs.Job) -> Scope:
    return staff.load_scope(conn, cast(int, job.scope_id))


def _do_nothing(tx: Connection | None = None) -> None:
    """The commit of a job that found nothing to do."""
