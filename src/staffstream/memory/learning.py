"""What is remembered of a conversation inside the transactions that save its messages: each message becomes an episode
at once, and the background jobs that will learn from it are enqueued (see learning_jobs.py).
"""

import asyncio
import logging
from typing import Any

from staffstream.domain import Conversation, Message, Run, Scope, Staff
from staffstream.memory import summaries
from staffstream.memory.repetition import adds_nothing
from staffstream.models.embeddings import Embedder, EmbedderUnavailable
from staffstream.settings import Settings
from staffstream.storage import jobs, learning_marks, memories, staff
from staffstream.storage.database import Connection
from staffstream.storage.vectors import EmbedNow, find_local, list_unembedded_scopes

log = logging.getLogger(__name__)

QUERY_EMBEDDING_S = 2.0  # the longest that a reply waits for a remote embedder


class Learning:
    """Makes messages searchable and enqueues the jobs that learn from them.

    `embed_now` is None with a remote embedder: memories are then saved without a vector, and the `embed` job adds it.
    """

    def __init__(self, *, settings: Settings, embedder: Embedder) -> None:
        self._settings = settings
        self._embedder = embedder
        self.embed_now: EmbedNow | None = find_local(embedder)
        self.embedder_answers = True
        """Whether the embedder answered when it was asked last."""
        self.asked_now: set[str] = set()
        """The conversations that a user asked to learn from now, however few their new messages are."""
        self.jobs_changed = asyncio.Event()
        """Set after a commit that enqueued a job."""

    def take_asked(self, conversation_id: str) -> bool:
        """Whether a user asked to learn from the conversation now; each time that was asked is answered once."""
        if conversation_id not in self.asked_now:
            return False
        self.asked_now.discard(conversation_id)
        return True

    async def prepare_query(self, text: str) -> EmbedNow | None:
        """A function that returns the text's vector: the local embedder, or one that holds the remote one's answer.

        None when the remote embedder does not answer in time; memories are then searched by words alone.
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

    def index_user_message(
        self, tx: Connection, member: Staff, scope: Scope, conversation: Conversation, message: Message
    ) -> None:
        """Make a question searchable in the transaction that saves it."""
        if member.memory_enabled:
            self._add_episode(tx, scope, message, conversation.user_name)

    def index_reply(
        self,
        tx: Connection,
        member: Staff,
        run: Run,
        message: Message,
        record: dict[str, Any] | None,
        *,
        question: Message,
    ) -> None:
        """Make a reply searchable in the transaction that saves it, unless it adds nothing to what was recalled for it,
        and enqueue the jobs that are due.
        """
        if member.memory_enabled:
            if not adds_nothing(message.content, _list_known(question, record)):
                self._add_episode(tx, run.scope, message, member.name)
            self.schedule_extraction(tx, run.scope, run.conversation_id)
        else:  # messages of a time without memory are not learned from later either
            learning_marks.set_learned(tx, run.scope, run.conversation_id, message)
        if record and _needs_summary(record):
            jobs.enqueue_job(tx, "summarise", run.conversation_id, scope_id=run.scope_id)

    def schedule_extraction(self, tx: Connection, scope: Scope, conversation_id: str) -> None:
        """Enqueue the `extract` job: due now when enough messages wait, else after a quiet time that each message
        starts anew.
        """
        every = self._settings.extract_every_messages
        if learning_marks.has_unlearned(tx, scope, conversation_id, at_least=every):
            jobs.enqueue_job(tx, "extract", conversation_id, scope_id=scope.id)
        else:
            idle_s = self._settings.extract_idle_s
            jobs.enqueue_job(tx, "extract", conversation_id, scope_id=scope.id, due_in_s=idle_s, replace=True)

    def index_import(self, tx: Connection, scope: Scope, conversation: Conversation, messages: list[Message]) -> None:
        """Make an imported conversation searchable. Facts are learned only from messages that come after it."""
        index_past_conversation(tx, scope, conversation, messages, self.embed_now)
        self.request_vectors(tx, scope)

    def request_vectors(self, tx: Connection, scope: Scope) -> None:
        """Enqueue the `embed` job for memories that were saved without a vector."""
        if self.embed_now is None:
            jobs.enqueue_job(tx, "embed", str(scope.id), scope_id=scope.id)

    def resume_embedding(self, tx: Connection) -> None:
        """At the start: enqueue the `embed` job of every scope with missing vectors. They are missing when the embedder
        was away for long, when `reembed` was stopped, or after an import without a local embedder.
        """
        for scope_id in list_unembedded_scopes(tx):
            jobs.enqueue_job(tx, "embed", str(scope_id), scope_id=scope_id)

    def _add_episode(self, tx: Connection, scope: Scope, message: Message, speaker: str) -> None:
        memories.add_episode(tx, scope, message, speaker=speaker, embed=self.embed_now)
        self.request_vectors(tx, scope)


def index_past_conversation(
    tx: Connection,
    scope: Scope,
    conversation: Conversation,
    messages: list[Message],
    embed: EmbedNow | None,
    *,
    learn: bool = False,
) -> None:
    """Make a past conversation searchable. With `learn` facts are extracted from it by the next server's jobs; without,
    only from the messages that come after it.
    """
    member = staff.get_staff(tx, scope.staff_id)
    for message in messages if member.memory_enabled else []:
        speaker = conversation.user_name if message.message_type == "user" else member.name
        memories.add_episode(tx, scope, message, speaker=speaker, embed=embed)
    if messages and learn and member.memory_enabled:
        jobs.enqueue_job(tx, "extract", conversation.id, scope_id=scope.id)
    elif messages:
        learning_marks.set_learned(tx, scope, conversation.id, messages[-1])


def _list_known(question: Message, record: dict[str, Any] | None) -> list[str]:
    """What the reply was built from: its question and what was recalled for it."""
    sections = {section["name"]: section["items"] for section in record["sections"]} if record else {}
    recalled = [item["text"] for name in ("memories", "graph") for item in sections.get(name, ())]
    return [question.content, *recalled]


def _needs_summary(record: dict[str, Any]) -> bool:
    spent = {section["name"]: section["tokens"] for section in record["sections"]}
    dropped = sum(item.get("source") == "turn" for item in record["dropped"])
    return summaries.is_due(spent["recent_turns"], dropped, record["budget_tokens"])
