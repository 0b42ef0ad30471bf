"""Tells the formats apart, object by object, and hands each object to its reader."""

import contextlib
import functools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TextIO

from staffstream.errors import SetupError
from staffstream.memory.chat_import import chatgpt, claude_ai, letta, mem0
from staffstream.memory.chat_import.files import MAX_CHARACTERS, UNREADABLE, open_texts
from staffstream.memory.chat_import.json_stream import read_objects
from staffstream.memory.chat_import.past import PastChat, PastMemory, Report
from staffstream.storage.messages import ImportedMessage

Json = dict[str, Any]


def read_export(
    path: Path, report: Report | None = None, *, most_characters: int = MAX_CHARACTERS
) -> Iterator[PastChat | PastMemory]:
    """The conversations and memories of an export one by one, each memory once.

    `report` counts what is left out. Raises SetupError when it reaches what is wrong.
    """
    report = report if report is not None else Report()
    reader = _Reader(path, report)
    known: set[str] = set()
    try:
        with contextlib.closing(_read_items(path, reader, most_characters)) as items:
            for item in items:
                if isinstance(item, PastMemory):
                    if item.text.casefold() in known:
                        continue  # ChatGPT repeats what it remembers in each conversation
                    known.add(item.text.casefold())
                yield item
    except UnicodeError as error:
        raise SetupError(f"{path} is no JSON.") from error
    except UNREADABLE as error:
        raise SetupError(f"{path} cannot be read: {error}.") from error


def _read_items(path: Path, reader: "_Reader", most_characters: int) -> Generator[PastChat | PastMemory, None, None]:
    left = most_characters

    def read(text: TextIO, size: int) -> str:
        nonlocal left
        part = text.read(size)
        left -= len(part)
        if left < 0:
            raise SetupError(f"{path} holds more than it may.")
        return part

    with contextlib.closing(open_texts(path, reader.report)) as texts:
        for text in texts:
            for item in read_objects(functools.partial(read, text), path):
                yield from reader.read(item)
    yield from reader.finish()


class _Reader:
    """Reads objects. Single messages of pages are collected, since they are one conversation together."""

    def __init__(self, path: Path, report: Report) -> None:
        self.report = report
        self._path = path
        self._paged: dict[str, ImportedMessage] = {}
        self._read = self._unknown = 0

    def read(self, item: Json) -> Iterator[PastChat | PastMemory]:
        """What an object holds."""
        self._read += 1
        if claude_ai.is_chat(item):
            yield from self._check(claude_ai.read_chat(item, self.report))
        elif chatgpt.is_chat(item):
            found = list(chatgpt.read_chat(item, self.report))
            if not any(isinstance(each, PastChat) for each in found):
                self.report.leave_out("conversations without text")
            yield from found
        elif claude_ai.is_project(item):
            yield from self._check(claude_ai.read_project(item))
        elif claude_ai.is_memories(item):
            yield from claude_ai.read_memories(item)
        elif letta.is_page(item):
            for message in item["messages"]:
                self._take_message(message)
        elif letta.is_agent_file(item):
            yield from letta.read_agent_file(item, self.report)
        elif letta.is_message(item):
            self._take_message(item)
        elif mem0.is_page(item):
            for each in mem0.list_page(item):
                yield from self.read(each)
        elif mem0.is_memory(item):
            yield from mem0.read_memory(item, self.report)
        elif mem0.is_relation(item):
            yield from mem0.read_relation(item)
        elif letta.is_passage(item):
            yield from letta.read_passage(item)
        else:
            self._unknown += 1
            self.report.leave_out("entries of an unknown kind")

    def finish(self) -> Iterator[PastChat]:
        """The conversation of the messages that came in pages. Raises SetupError if the file held no known entry."""
        if self._unknown and self._unknown == self._read:
            raise SetupError(
                f"{self._path} is no export of ChatGPT, Claude.ai, Letta or mem0: nothing in it has messages or is a"
                " memory."
            )
        if self._paged:
            yield PastChat("", sorted(self._paged.values(), key=lambda message: message.created_at))

    def _take_message(self, message: object) -> None:
        if isinstance(message, dict) and letta.is_message(message):
            for read in letta.read_page_message(message, self.report):
                self._paged.setdefault(f"{message['id']} {read.message_type}", read)  # pages may overlap

    def _check(self, chat: PastChat) -> Iterator[PastChat]:
        if chat.messages:
            yield chat
        else:
            self.report.leave_out("conversations without text")
