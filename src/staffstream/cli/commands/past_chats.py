"""`staffstream import FILE --staff …`: conversations and memories out of the exports of other services.

The whole file is read once before anything is saved: that finds what is wrong in it, counts what is in it, and prices
what learning from it would cost.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

from staffstream.cli.commands import print_line, show_progress
from staffstream.domain import Scope, Staff, clean_text, now_text
from staffstream.memory.chat_import import PastChat, PastMemory, Report, read_export
from staffstream.memory.learning import index_past_conversation
from staffstream.memory.learning_estimate import LearningEstimate, estimate_learning
from staffstream.models.prices import price_usage
from staffstream.settings import Settings, read_settings
from staffstream.storage import conversations, jobs, memories, messages, staff
from staffstream.storage.database import Connection, transact
from staffstream.storage.memories import NewMemory
from staffstream.storage.passages import split_passages
from staffstream.storage.vectors import EmbedNow

_TITLE_CHARACTERS = 200
_MEMORIES_AT_ONCE = 100
_DAY_S = 24 * 3600


@dataclass(slots=True)
class _Contents:
    """What an export holds, and what learning from it would take."""

    chats: int = 0
    messages: int = 0
    memories: int = 0
    older_than_retention: int = 0
    learning: LearningEstimate = field(default_factory=LearningEstimate)
    report: Report = field(default_factory=Report)


def import_past(connection: Connection, args: argparse.Namespace, member: Staff, embed: EmbedNow | None) -> None:
    """Import the file for one user of a staff member and print what came in, what was left out and why. Each
    conversation has a transaction of its own, so that a running server need not wait for all of them.
    """
    settings = read_settings()
    contents = _look_through(args, settings)
    if not args.dry_run:
        _save_all(connection, args, member, embed, contents)
    done = "would import" if args.dry_run else "imported"
    more = f" and {contents.memories} memories" if contents.memories else ""
    print_line(
        f"{done} {contents.chats} conversations with {contents.messages} messages{more} for {args.user}"
        f" and {member.name}"
    )
    _print_left_out(contents)
    if args.learn or args.dry_run:
        _print_price(contents.learning, settings, learn=args.learn and not args.dry_run)


def _look_through(args: argparse.Namespace, settings: Settings) -> _Contents:
    contents = _Contents()
    oldest = now_text(-settings.retention_days * _DAY_S) if settings.retention_days is not None else ""
    for item in read_export(args.file, contents.report):
        if isinstance(item, PastMemory):
            contents.memories += 1
            continue
        contents.chats += 1
        contents.messages += len(item.messages)
        contents.older_than_retention += max(message.created_at for message in item.messages) < oldest
        contents.learning += estimate_learning(item.messages)
    return contents


def _save_all(
    connection: Connection, args: argparse.Namespace, member: Staff, embed: EmbedNow | None, contents: _Contents
) -> None:
    waiting: list[PastMemory] = []

    def save(act: Callable[[Scope], None]) -> None:
        with transact(connection):
            scope = staff.ensure_scope(connection, member.id, clean_text(args.user))
            act(scope)
            if embed is None:
                jobs.enqueue_job(connection, "embed", str(scope.id), scope_id=scope.id)

    with show_progress(contents.chats + contents.memories, "entries") as progress:
        for item in read_export(args.file):
            progress.update()
            if isinstance(item, PastChat):
                save(lambda scope, chat=item: _save_chat(connection, scope, chat, embed, learn=args.learn))  # type: ignore[misc]
                continue
            waiting.append(item)
            if len(waiting) == _MEMORIES_AT_ONCE:
                save(lambda scope: _save_memories(connection, scope, waiting, embed))
                waiting.clear()
        if waiting:
            save(lambda scope: _save_memories(connection, scope, waiting, embed))


def _save_chat(tx: Connection, scope: Scope, chat: PastChat, embed: EmbedNow | None, *, learn: bool) -> None:
    made = conversations.create_conversation(tx, scope, title=chat.title[:_TITLE_CHARACTERS])
    saved = messages.import_messages(tx, scope, made, chat.messages)
    index_past_conversation(tx, scope, made, saved, embed, learn=learn)


def _save_memories(tx: Connection, scope: Scope, past: list[PastMemory], embed: EmbedNow | None) -> None:
    for memory in past:
        for part in split_passages(memory.text):
            memories.add_memory(tx, scope, NewMemory(text=part, occurred_at=memory.occurred_at), embed)


def _print_left_out(contents: _Contents) -> None:
    for reason, count in contents.report.left_out.most_common():
        print_line(f"left out: {count} {reason}")
    if contents.older_than_retention:
        print_line(
            f"{contents.older_than_retention} conversations are older than STAFFSTREAM_RETENTION_DAYS: the server will"
            " erase them"
        )


def _print_price(estimate: LearningEstimate, settings: Settings, *, learn: bool) -> None:
    usage = {"input_tokens": estimate.input_tokens, "output_tokens": estimate.output_tokens}
    price = price_usage(settings.background_model, usage, settings.prices)
    begin = "the server learns facts from them in the background" if learn else "learning facts from them (--learn)"
    print_line(
        f"{begin}: about {estimate.calls} calls of {settings.background_model}, {price.tokens} tokens,"
        f" US$ {price.cost_usd:.2f}"
    )
