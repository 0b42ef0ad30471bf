"""Importing a past conversation, or a list of memories, in small transactions that let the others in.

All of it stays hidden until its last transaction, so that nobody sees a part, and a part that a crash leaves is erased
by the next start.
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator, Sequence

from staffstream.background.purge import Purger
from staffstream.domain import Conversation, Message, Scope
from staffstream.memory.learning import Learning
from staffstream.storage import conversations, hidden_scopes, learning_marks, memories, messages, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.memories import Memory, NewMemory
from staffstream.storage.messages import ImportedMessage

CHUNK = 10
_CHUNK_CHARACTERS = 50_000


class Importer:
    """Imports for one scope after another."""

    def __init__(self, database: Database, learning: Learning, purger: Purger) -> None:
        self._database = database
        self._learning = learning
        self._purger = purger

    async def import_conversation(
        self,
        staff_id: str,
        user_id: str,
        past: Sequence[ImportedMessage],
        *,
        title: str,
        user_name: str,
        time_zone: str,
    ) -> tuple[Conversation, list[Message]]:
        """The conversation and its messages, in order, all of which can be recalled. Raises NotFound."""
        async with self._open(staff_id, user_id) as (scope, hidden):
            made = await self._database.write(
                lambda tx: conversations.create_conversation(
                    tx, hidden, title=title, user_name=user_name, time_zone=time_zone
                )
            )
            imported: list[Message] = []
            for chunk in cut_chunks(past):
                imported += await self._database.write(
                    functools.partial(self._add, scope=scope, hidden=hidden, conversation=made, part=chunk)
                )

            def show(tx: Connection) -> Conversation:
                hidden_scopes.show_import(tx, hidden, scope, made.id)
                if imported:
                    times = [message.created_at for message in imported]
                    conversations.set_times(tx, scope, made.id, created_at=min(times), updated_at=max(times))
                self._learning.request_vectors(tx, scope)
                return conversations.get_conversation(tx, scope, made.id)

            return await self._database.write(show), imported

    async def import_memories(self, staff_id: str, user_id: str, new: Sequence[NewMemory]) -> list[Memory]:
        """The memories, in order, all of which can be recalled. Raises NotFound."""
        async with self._open(staff_id, user_id) as (scope, hidden):
            made: list[Memory] = []
            for start in range(0, len(new), CHUNK):
                part = new[start : start + CHUNK]
                made += await self._database.write(
                    functools.partial(self._add_memories, scope=scope, hidden=hidden, part=part)
                )

            def show(tx: Connection) -> None:
                hidden_scopes.show_import(tx, hidden, scope)
                self._learning.request_vectors(tx, scope)

            await self._database.write(show)
            return made

    @contextlib.asynccontextmanager
    async def _open(self, staff_id: str, user_id: str) -> AsyncIterator[tuple[Scope, Scope]]:
        """The scope, and the one that hides the import; what is left in that one when the block raises is erased."""
        scope, hidden = await self._database.write(
            lambda tx: (staff.ensure_scope(tx, staff_id, user_id), hidden_scopes.open_import(tx, staff_id))
        )
        try:
            yield scope, hidden
        except BaseException:
            await self._database.write(lambda tx: hidden_scopes.give_up_import(tx, hidden))
            await self._purger.purge()
            raise

    def _add(
        self, tx: Connection, scope: Scope, hidden: Scope, conversation: Conversation, part: Sequence[ImportedMessage]
    ) -> list[Message]:
        saved = messages.import_messages(tx, hidden, conversation, part)
        member = staff.get_staff(tx, scope.staff_id)
        for message in saved if member.memory_enabled else []:
            speaker = conversation.user_name if message.message_type == "user" else member.name
            memories.add_episode(tx, scope, message, speaker=speaker, embed=self._learning.embed_now)
        hidden_scopes.hide_episodes(tx, scope, conversation.id, hidden)
        learning_marks.set_learned(tx, hidden, conversation.id, saved[-1])
        return saved

    def _add_memories(self, tx: Connection, scope: Scope, hidden: Scope, part: Sequence[NewMemory]) -> list[Memory]:
        made = [memories.add_memory(tx, scope, new, self._learning.embed_now) for new in part]
        hidden_scopes.hide_memories(tx, [memory.id for memory in made], hidden)
        return made


def cut_chunks(past: Sequence[ImportedMessage]) -> Iterator[list[ImportedMessage]]:
    """The messages in parts of a transaction each. An answer stays with its question, whose turn it shares."""
    chunk: list[ImportedMessage] = []
    characters = 0
    for message in past:
        is_full = len(chunk) >= CHUNK or characters + len(message.content) > _CHUNK_CHARACTERS
        is_answer = message.message_type == "assistant" and bool(chunk) and chunk[-1].message_type == "user"
        if chunk and is_full and not is_answer:
            yield chunk
            chunk, characters = [], 0
        chunk.append(message)
        characters += len(message.content)
    if chunk:
        yield chunk
