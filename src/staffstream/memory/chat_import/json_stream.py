"""Reads the objects of a JSON file one by one: an export may be larger than the machine's memory, and an archive of one
megabyte may hold a thousand.

Read are a list of objects, an object whose `conversations` is such a list, a single object, and one object a line.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from staffstream.errors import SetupError
from staffstream.memory.chat_import.past import list_objects

PIECE_CHARACTERS = 1024 * 1024
MAX_OBJECT_CHARACTERS = 32 * 1024 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")


def read_objects(read: Callable[[int], str], path: Path) -> Iterator[dict[str, Any]]:
    """The objects of the text that `read` returns in pieces. Raises SetupError when it reaches what is wrong."""
    scanner = _Scanner(read, path)
    if scanner.peek() == "[":
        yield from scanner.take_list()
    else:
        yield from scanner.take_members()
        while scanner.peek() == "{":
            yield from scanner.take_members()
    if scanner.peek():
        raise scanner.refusal


class _Scanner:
    """Holds no more of a file than one object."""

    def __init__(self, read: Callable[[int], str], path: Path) -> None:
        self.refusal = SetupError(f"{path} is no export that can be imported: a list of conversations was expected.")
        self._read = read
        self._path = path
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._place = 0

    def peek(self) -> str:
        """The next character but white space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._place)
            assert space is not None  # it matches nothing too
            self._place = space.end()
            if self._place < len(self._text) or not self._fill():
                return self._text[self._place : self._place + 1]

    def take(self, expected: str) -> str:
        """The next character, which has to be one of these. Raises SetupError."""
        found = self.peek()
        if not found or found not in expected:
            raise self.refusal
        self._place += 1
        return found

    def take_list(self) -> Iterator[dict[str, Any]]:
        """The objects of a list, one by one."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        yield self._take_object()
        while self.take(",]") == ",":
            yield self._take_object()

    def take_members(self) -> Iterator[dict[str, Any]]:
        """An object; or, if it wraps a list of conversations, the objects of its lists."""
        members: dict[str, Any] = {}
        wrapped = 0
        mark = self.take("{")
        while mark != "}" and not (mark == "{" and self.peek() == "}"):
            if not isinstance(name := self._take_value(), str):
                raise self.refusal
            self.take(":")
            if name == "conversations" and self.peek() == "[":
                for item in self.take_list():
                    wrapped += 1
                    yield item
            else:
                members[name] = self._take_value()
            mark = self.take(",}")
        if wrapped:
            yield from (item for value in members.values() for item in list_objects(value))
        elif members:
            yield members
        else:
            raise self.refusal

    def _take_object(self) -> dict[str, Any]:
        if self.peek() != "{":
            raise self.refusal
        return dict(self._take_value())

    def _take_value(self) -> Any:
        """The next JSON value. One that is not whole yet is tried again when the text at hand has doubled, so that
        trying costs no more than reading.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._place > MAX_OBJECT_CHARACTERS or not self._fill():
                    text = f"{self._path} is no JSON, or one of its conversations is too large."
                    raise SetupError(text) from error
            else:
                if end < len(self._text) or not self._fill():  # a number may go on in the next piece
                    self._place = end
                    return value

    def _fill(self) -> bool:
        """Read on; whether there was more. What was read already is dropped."""
        more = self._read(max(PIECE_CHARACTERS, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)
