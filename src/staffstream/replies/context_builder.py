"""Builds contexts, for a run or for a preview of what a reply would be built from, and searches as a reply recalls."""

from collections.abc import Sequence
from typing import Any

from staffstream.domain import MemoryKind, Message, Scope, Staff, now_text
from staffstream.errors import MessageTooLong
from staffstream.memory.learning import Learning
from staffstream.memory.recall import recall_memories
from staffstream.memory.traits import HalfLives
from staffstream.replies.active_runs import ActiveRun
from staffstream.replies.context import Context, fit_context, weigh_question
from staffstream.replies.context_sources import Sources, gather_sources
from staffstream.replies.token_ratios import TokenRatios
from staffstream.settings import Settings
from staffstream.storage import messages, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.memories import Memory, load_memories
from staffstream.storage.spending import Ledger
from staffstream.storage.vectors import EmbedNow
from staffstream.support.local_time import describe_moment
from staffstream.support.timers import Stage
from staffstream.support.tokens import count_tokens


class ContextBuilder:
    """Reads what there is to say and fits it to a staff member's budget."""

    def __init__(
        self, *, settings: Settings, database: Database, learning: Learning, ledger: Ledger, ratios: TokenRatios
    ) -> None:
        self._ratios = ratios
        self._settings = settings
        self._database = database
        self._learning = learning
        self._ledger = ledger
        self._half_lives = HalfLives(settings.memory_half_life_days, settings.latest_half_life_days)

    def check_length(self, member: Staff, tokens: int) -> None:
        """Raises MessageTooLong for a question that would not fit whole, by our own count of its tokens."""
        budget = self._budget_of(member)
        needed = weigh_question(tokens, self._ratios.get(self._model_of(member)))
        if needed > budget:
            raise MessageTooLong(
                f"The message counts about {needed} tokens and the staff member's context budget is {budget}."
                " Shorten it or raise context_budget_tokens."
            )

    async def build_context(self, active: ActiveRun) -> tuple[Context, Sequence[Stage]]:
        """What a run sends, from one snapshot, and how long each part took. Raises what the ledger raises for a run
        that waited in the queue until a cap was reached; MessageTooLong when the budget was lowered meanwhile.
        """
        run, instructions = active.run, active.run.instructions
        if active.past is not None and active.member and active.question:
            turns = [[message] for message in active.past]
            return self._fit(Sources(active.member, active.question, turns), instructions), []

        def build(conn: Connection) -> tuple[Context, Sequence[Stage]]:
            if active.question and active.member:  # it was accepted just now, and checked
                return self._build(conn, run.scope, active.member, active.question, embed, instructions)
            self._ledger.check_spent(conn, run.scope)
            member = staff.get_staff(conn, run.staff_id)
            question = messages.get_message(conn, run.scope, run.user_message_id)
            self.check_length(member, count_tokens(question.content))
            return self._build(conn, run.scope, member, question, embed, instructions)

        embed = self._learning.embed_now or await self._embed_question(active)
        return await self._database.read(build)

    async def preview_context(
        self, staff_id: str, user_id: str, conversation_id: str | None, content: str
    ) -> dict[str, Any]:
        """The record of the context that a reply to `content` would be built from; nothing is stored. Raises NotFound,
        MessageTooLong.
        """

        def build(conn: Connection) -> Context:
            scope = staff.find_scope(conn, staff_id, user_id)
            member = staff.get_staff(conn, staff_id)
            self.check_length(member, count_tokens(content))
            question = messages.draft_question(conn, scope, conversation_id, content)
            return self._build(conn, scope, member, question, embed)[0]

        embed = await self._learning.prepare_query(content)
        return (await self._database.read(build)).record

    async def search(
        self, scope: Scope, query: str, *, kind: MemoryKind | None, limit: int
    ) -> list[tuple[Memory, float]]:
        """What would be recalled for a query and its scores, best first, below the relevance floor too."""

        def search(conn: Connection) -> list[tuple[Memory, float]]:
            found = recall_memories(
                conn, scope, query, embed=embed, limit=limit, kind=kind, half_lives=self._half_lives
            )
            known = load_memories(conn, scope, [item.memory.number for item in found])
            return [(known[item.memory.number], item.score) for item in found]

        embed = await self._learning.prepare_query(query)
        return await self._database.read(search)

    async def _embed_question(self, active: ActiveRun) -> EmbedNow | None:
        """What gives the question's vector when a provider has to be asked for it."""
        run, question = active.run, active.question
        if question is None:
            question = await self._database.read(
                lambda conn: messages.get_message(conn, run.scope, run.user_message_id)
            )
        return await self._learning.prepare_query(question.content)

    def _build(
        self,
        conn: Connection,
        scope: Scope,
        member: Staff,
        question: Message,
        embed: EmbedNow | None,
        instructions: str = "",
    ) -> tuple[Context, Sequence[Stage]]:
        sources = gather_sources(conn, scope, member, question, embed=embed, half_lives=self._half_lives)
        return self._fit(sources, instructions), sources.stages

    def _fit(self, sources: Sources, instructions: str) -> Context:
        member, model = sources.staff, self._model_of(sources.staff)
        return fit_context(
            sources,
            model=model,
            budget_tokens=self._budget_of(member),
            max_output_tokens=member.max_output_tokens or self._settings.max_output_tokens,
            ratio=self._ratios.get(model),
            instructions=instructions,
            now=describe_moment(now_text(), sources.time_zone or self._settings.time_zone),
            thinking_tokens=member.thinking_budget_tokens,
        )

    def _model_of(self, member: Staff) -> str:
        return member.model or self._settings.model

    def _budget_of(self, member: Staff) -> int:
        return member.context_budget_tokens or self._settings.context_budget_tokens
