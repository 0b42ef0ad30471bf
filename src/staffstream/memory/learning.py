"""What is kept of a conversation and when: every message as an episode at once, facts and summaries by background
jobs.

The first half runs inside the transactions that save messages; the second half is the jobs' handlers, each of which
asks the background model outside any transaction and returns the transaction that commits what it learned together
with the job's end.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from staffstream.domain import Conversation, Message, Run, Scope, Staff, now_text
from staffstream.errors import Conflict, UpstreamUnfinished
from staffstream.memory import extraction, summaries
from staffstream.memory.chat_import import save_past_chat
from staffstream.models.claude import Answer, Claude
from staffstream.models.embeddings import Embedder, EmbedderUnavailable
from staffstream.settings import Settings
from staffstream.storage import conversations, deliveries, graph, jobs, memories, runs, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.memory_search import (
    EmbedNow,
    find_local,
    list_unembedded_scopes,
    load_unembedded,
    save_vectors,
)
from staffstream.storage.spending import Ledger
from staffstream.support.metrics import Metrics
from staffstream.support.tokens import count_tokens

log = logging.getLogger(__name__)

Commit = Callable[[Connection], None]

EMBED_BATCH = 64
QUERY_EMBEDDING_S = 2.0  # a reply waits no longer than this for a far embedder


class Learning:
    """Keeps messages and learns from them. `embed_now` is None when vectors come from a far end: then messages are
    saved without, and a job follows that fetches them.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        claude: Claude,
        embedder: Embedder,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._database = database
        self._claude = claude
        self._metrics = metrics
        self._ledger = Ledger(settings, metrics)
        self._embedder = embedder
        self.embed_now: EmbedNow | None = find_local(embedder)
        self.embedder_answers = True  # as far as was last seen
        self.jobs_changed = asyncio.Event()
        """Set after a commit that enqueued a job."""

    async def prepare_query(self, text: str) -> EmbedNow | None:
        """What gives a question's vector: the embedder itself if it needs no far end, else the vector it just gave.

        None when the far end does not answer soon: then words alone are searched.
        """
        if self.embed_now is not None:
            return self.embed_now
        try:
            async with asyncio.timeout(QUERY_EMBEDDING_S):
                vector = (await self._embedder.embed([text], kind="query"))[0]
        except (TimeoutError, EmbedderUnavailable) as error:
            log.warning("the embedder does not answer, so memories are searched by words: %s", type(error).__name__)
            self.embedder_answers = False
            return None
        self.embedder_answers = True
        return lambda _: vector

    # ── inside the transactions that save messages ───────────────────────────────────────────────────────────────────

    def index_user_message(
        self, tx: Connection, member: Staff, scope: Scope, conversation: Conversation, message: Message
    ) -> None:
        """Make a question searchable in the transaction that saves it."""
        if member.memory_enabled:
            self._add_episode(tx, scope, message, conversation.user_name)

    def index_reply(
        self, tx: Connection, member: Staff, run: Run, message: Message, record: dict[str, Any] | None
    ) -> None:
        """Make a reply searchable in the transaction that saves it, and enqueue the jobs that fall due."""
        if member.memory_enabled:
            self._add_episode(tx, run.scope, message, member.name)
            self._schedule_extraction(tx, run.scope, run.conversation_id)
        else:  # what is said while memory is off is not learned from later either
            conversations.set_learned(tx, run.scope, run.conversation_id, message)
        if record and self._needs_summary(record):
            jobs.enqueue_job(tx, "summarise", run.conversation_id, scope_id=run.scope_id)

    def schedule_learning(self, tx: Connection, run: Run) -> None:
        """Have a question learned from, though its run ended without a word."""
        if staff.get_staff(tx, run.staff_id).memory_enabled:
            self._schedule_extraction(tx, run.scope, run.conversation_id)

    def index_import(self, tx: Connection, scope: Scope, conversation: Conversation, messages: list[Message]) -> None:
        """Make an imported conversation searchable; facts are learned from what is said after it."""
        save_past_chat(tx, scope, conversation, messages, self.embed_now)
        self.request_vectors(tx, scope)

    # ── erasing: rows go by cascade, words and vectors have to be taken out of their indexes first ────────────────────

    def forget_message(self, tx: Connection, scope: Scope, message_id: str) -> None:
        """Erase a message and its replies with all that came from them. Raises NotFound; Conflict while one is made."""
        message = conversations.get_message(tx, scope, message_id)
        doomed = [message.id, *conversations.list_replies(tx, scope, message.id)]
        if runs.has_active_run(tx, scope, message.id):
            raise Conflict("A reply to this message is being made. Cancel the run first.")
        purged = memories.purge_memories(tx, scope, message_ids=doomed)
        conversations.drop_summary(tx, scope, message.conversation_id, covering_turn=message.turn)
        runs.erase_summaries(tx, scope, message.conversation_id, after_turn=message.turn)
        deliveries.drop_deliveries(tx, scope, message.id)
        conversations.delete_message(tx, scope, message.id)
        self._mend_graph(tx, scope, purged)

    def forget_conversation(self, tx: Connection, scope: Scope, conversation_id: str) -> None:
        """Erase a conversation with all that came from it. Raises NotFound."""
        conversations.get_conversation(tx, scope, conversation_id)
        purged = memories.purge_memories(tx, scope, conversation_id=conversation_id)
        conversations.delete_conversation(tx, scope, conversation_id)
        self._mend_graph(tx, scope, purged)

    def forget_staff(self, tx: Connection, staff_id: str) -> None:
        """Erase a staff member with all that it holds, for every user. Raises NotFound."""
        for scope in staff.list_scopes(tx, staff_id):
            memories.purge_memories(tx, scope)
        staff.delete_staff(tx, staff_id)

    def _mend_graph(self, tx: Connection, scope: Scope, purged: memories.Purged) -> None:
        """Let hold again what something erased had superseded, and drop the names that only the erased texts said."""
        graph.reopen_relations(tx, scope, purged.revived)
        graph.drop_orphans(tx, scope)
        said = {word for text in purged.texts for word in graph.fold_name(text).split()}
        known = {graph.fold_name(name) for name in conversations.load_names(tx, scope)[0]}
        for name in graph.list_all_names(tx, scope):
            if name not in known and said.issuperset(name.split()) and not memories.is_mentioned(tx, scope, name):
                graph.drop_name(tx, scope, name)

    def request_vectors(self, tx: Connection, scope: Scope) -> None:
        """Have memories that were saved without a vector get one."""
        if self.embed_now is None:
            jobs.enqueue_job(tx, "embed", str(scope.id), scope_id=scope.id)

    def resume_embedding(self, tx: Connection) -> None:
        """At a start: have all vectors made that are missing, because the embedder was away for long, or `reembed` was
        stopped, or memories were imported without one.
        """
        for scope_id in list_unembedded_scopes(tx):
            jobs.enqueue_job(tx, "embed", str(scope_id), scope_id=scope_id)

    def _add_episode(self, tx: Connection, scope: Scope, message: Message, speaker: str) -> None:
        memories.add_episode(tx, scope, message, speaker=speaker, embed=self.embed_now)
        self.request_vectors(tx, scope)

    def _schedule_extraction(self, tx: Connection, scope: Scope, conversation_id: str) -> None:
        """Every so many messages at once, else after a quiet while: each message pushes that while back."""
        every = self._settings.extract_every_messages
        if conversations.has_unlearned(tx, scope, conversation_id, at_least=every):
            jobs.enqueue_job(tx, "extract", conversation_id, scope_id=scope.id)
        else:
            idle_s = self._settings.extract_idle_s
            jobs.enqueue_job(tx, "extract", conversation_id, scope_id=scope.id, due_in_s=idle_s, replace=True)

    def _needs_summary(self, record: dict[str, Any]) -> bool:
        spent = {section["name"]: section["tokens"] for section in record["sections"]}
        dropped = sum(item.get("source") == "turn" for item in record["dropped"])
        return summaries.is_due(spent["recent_turns"], dropped, record["budget_tokens"])

    # ── the jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def extract(self, job: jobs.Job) -> Commit:
        """Learn facts, entities and relations from a conversation's new messages: one call to the background model."""

        def collect(conn: Connection) -> tuple[extraction.Batch | None, Staff]:
            scope = _load_scope(conn, job)
            return extraction.collect_batch(conn, scope, job.subject), staff.get_staff(conn, scope.staff_id)

        batch, member = await self._database.read(collect)
        if batch is None or not member.memory_enabled:
            return _do_nothing
        if self._comes_too_soon(batch):
            return lambda tx: self._schedule_extraction(tx, batch.scope, job.subject)
        taken, answer = await self._ask_facts(batch, member)
        learned = extraction.check_answer(taken, answer and answer.value, staff=member)

        def commit(tx: Connection) -> None:
            if answer:
                self._ledger.record(tx, taken.scope, answer.model, answer.usage)
            made = extraction.save_learned(tx, taken, learned, embed=self.embed_now)
            self.request_vectors(tx, taken.scope)
            if taken.more or made is None:
                jobs.enqueue_job(tx, "extract", job.subject, scope_id=taken.scope.id)
            self._metrics.note_learned(made or 0, learned.rejected)

        return commit

    async def _ask_facts(self, batch: extraction.Batch, member: Staff) -> tuple[extraction.Batch, Answer | None]:
        """What the background model finds in the batch, or in as much of its beginning as it finishes an answer about;
        None for a message that it will not finish one about even alone: without that it would be asked for ever.
        """
        while True:
            try:
                return batch, await self._claude.ask_json(
                    model=self._settings.background_model,
                    system=extraction.INSTRUCTIONS,
                    question=extraction.write_question(batch, staff_name=member.name),
                    schema=extraction.SCHEMA,
                    max_tokens=extraction.MAX_OUTPUT_TOKENS,
                )
            except UpstreamUnfinished:
                if len(batch.messages) == 1:
                    log.warning("nothing is learned from message %s: no answer came to its end", batch.messages[0].id)
                    return batch, None
                batch = batch.halve()

    def _comes_too_soon(self, batch: extraction.Batch) -> bool:
        """A job that was asked for again while it ran finds a few messages only: they wait for more, or for quiet."""
        quiet_since = now_text(-self._settings.extract_idle_s)
        few = len(batch.messages) < self._settings.extract_every_messages and not batch.more
        return few and batch.messages[-1].created_at > quiet_since

    async def summarise(self, job: jobs.Job) -> Commit:
        """Fold a conversation's oldest turns into its summary: one call to the background model."""

        def plan(conn: Connection) -> tuple[summaries.Fold | None, Staff]:
            scope = _load_scope(conn, job)
            member = staff.get_staff(conn, scope.staff_id)
            budget = member.context_budget_tokens or self._settings.context_budget_tokens
            ratio = runs.load_token_ratios(conn).get(member.model or self._settings.model, 1.2)
            budget -= min(budget * 3 // 4, int(count_tokens(member.persona) * ratio))  # what is left for a talk
            return summaries.plan_fold(conn, scope, job.subject, budget_tokens=budget, ratio=ratio), member

        fold, member = await self._database.read(plan)
        if fold is None:
            return _do_nothing
        model = self._settings.background_model
        answer = await self._claude.ask_json(
            model=model,
            system=summaries.write_instructions(fold),
            question=summaries.write_question(fold, staff=member),
            schema=summaries.SCHEMA,
            max_tokens=summaries.MAX_OUTPUT_TOKENS,
        )

        def commit(tx: Connection) -> None:
            self._ledger.record(tx, fold.scope, answer.model, answer.usage)
            if summaries.save_summary(tx, fold, answer.value, model=model) and fold.more:
                jobs.enqueue_job(tx, "summarise", job.subject, scope_id=fold.scope.id)

        return commit

    async def embed(self, job: jobs.Job) -> Commit:
        """Give vectors to memories that were saved without: one call to the embedder a batch."""

        def load(conn: Connection) -> tuple[Scope, list[tuple[int, str]]]:
            scope = _load_scope(conn, job)
            return scope, load_unembedded(conn, scope, limit=EMBED_BATCH)

        scope, waiting = await self._database.read(load)
        if not waiting:
            return _do_nothing
        try:
            vectors = await self._embedder.embed([text for _, text in waiting], kind="document")
        except EmbedderUnavailable:
            self.embedder_answers = False
            raise
        self.embedder_answers = True

        def commit(tx: Connection) -> None:
            save_vectors(tx, scope, [number for number, _ in waiting], vectors)
            if len(waiting) == EMBED_BATCH:
                jobs.enqueue_job(tx, "embed", job.subject, scope_id=scope.id)

        return commit


def _load_scope(conn: Connection, job: jobs.Job) -> Scope:
    return staff.load_scope(conn, cast(int, job.scope_id))


def _do_nothing(tx: Connection) -> None:
    """There was nothing to do."""
