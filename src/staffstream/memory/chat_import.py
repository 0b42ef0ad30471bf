"""Conversations out of the exports that ChatGPT and Claude.ai give their users: a ZIP file, or its conversations.json.

Both are somebody else's format, so what is not a message of text is skipped, and what is no such file at all is
refused. An archive is never unpacked: its members are read by name, and it is refused when it holds anything that could
only be meant to lead elsewhere. What an entry says of its size is not believed.
"""

import contextlib
import functools
import io
import json
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, TextIO

from staffstream.domain import MessageType, clean_text, format_time, now_text, parse_time
from staffstream.errors import SetupError
from staffstream.storage.conversations import ImportedMessage

MOST_CHARACTERS = 1024 * 1024 * 1024
_PIECE_CHARACTERS = 1024 * 1024
_MOST_IN_A_CHAT = 32 * 1024 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
_MOST_MEMBERS = 100_000
_UNREADABLE = (  # what zipfile lets through of a damaged or encrypted archive, or of one packed in another way
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError
)  # fmt: skip
_ROLES: dict[object, MessageType] = {"user": "user", "human": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class PastChat:
    """One conversation, its messages in order."""

    title: str
    messages: list[ImportedMessage]


def read_past_chats(path: Path, *, most_characters: int = MOST_CHARACTERS) -> Iterator[PastChat]:
    """The conversations of an export one by one, those without any text left out. Raises SetupError, when it comes to
    what is wrong.
    """
    left = most_characters

    def read(text: TextIO, size: int) -> str:
        nonlocal left
        part = text.read(size)
        left -= len(part)
        if left < 0:
            raise SetupError(f"{path} holds more than it may.")
        return part

    try:
        with contextlib.closing(_open_files(path)) as files:
            for file in files:
                text = io.TextIOWrapper(file, encoding="utf-8-sig")
                for chat in _scan_list(_Scanner(functools.partial(read, text), path)):
                    if (past := _read_chat(chat, path)).messages:
                        yield past
    except UnicodeDecodeError as error:
        raise SetupError(f"{path} is no JSON.") from error
    except _UNREADABLE as error:
        raise SetupError(f"{path} cannot be read: {error}.") from error


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_files(path: Path) -> Generator[IO[bytes], None, None]:
    """The files that hold conversations: the one given, or those in the archive."""
    if not path.is_file():
        raise SetupError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        for member in _list_members(archive, path):
            with archive.open(member) as packed:
                yield packed


def _list_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The conversations*.json at the archive's top."""
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise SetupError(f"{path} holds more than {_MOST_MEMBERS} files.")
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        leads_out = not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]
        if leads_out or stat.S_ISLNK(member.external_attr >> 16):
            raise SetupError(f"{path} holds a link, or a name that leads out of it.")
    wanted = [member for member in members if _is_wanted(member.filename)]
    if not wanted:
        raise SetupError(f"{path} holds no conversations.json.")
    return wanted


def _is_wanted(name: str) -> bool:
    return "/" not in name and name.startswith("conversations") and name.endswith(".json")


def _scan_list(scanner: "_Scanner") -> Iterator[dict[str, Any]]:
    """The objects of the JSON list that the scanner reads, one by one."""
    scanner.take("[")
    if scanner.peek() == "]":
        scanner.take("]")
    else:
        yield scanner.take_object()
        while scanner.take(",]") == ",":
            yield scanner.take_object()
    if scanner.peek():
        raise scanner.refusal


class _Scanner:
    """Holds no more of a file than one object: an export may be larger than the machine's memory, and an archive of one
    megabyte may hold a thousand.
    """

    def __init__(self, read: Callable[[int], str], path: Path) -> None:
        self.refusal = SetupError(f"{path} is no export of ChatGPT or Claude.ai: a list of conversations was expected.")
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

    def take_object(self) -> dict[str, Any]:
        """The next object. One that is not whole yet is tried again when the text at hand has doubled, so that trying
        costs no more than reading. Raises SetupError.
        """
        if self.peek() != "{":
            raise self.refusal
        while True:
            try:
                value, self._place = self._decoder.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._place > _MOST_IN_A_CHAT or not self._fill():
                    text = f"{self._path} is no JSON, or one of its conversations is too large."
                    raise SetupError(text) from error
            else:
                return dict(value)

    def _fill(self) -> bool:
        """Read on; whether there was more."""
        more = self._read(max(_PIECE_CHARACTERS, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_chat(chat: dict[str, Any], path: Path) -> PastChat:
    if isinstance(chat.get("chat_messages"), list):
        return PastChat(_as_text(chat.get("name")), list(_read_claude(chat["chat_messages"])))
    if isinstance(chat.get("mapping"), dict):
        return PastChat(_as_text(chat.get("title")), list(_read_chatgpt(chat)))
    raise SetupError(f"{path} is no export of ChatGPT or Claude.ai: a conversation in it has no messages.")


def _read_claude(messages: list[Any]) -> Iterator[ImportedMessage]:
    for message in messages:
        if isinstance(message, dict):
            content = message.get("content")
            blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
            text = _join(block.get("text") for block in blocks) or _as_text(message.get("text"))
            yield from _make_message(message.get("sender"), text, message.get("created_at"))


def _read_chatgpt(chat: dict[str, Any]) -> Iterator[ImportedMessage]:
    """The branch that the user saw last: from the current node up to the root, turned round."""
    mapping, branch, node_id = chat["mapping"], [], chat.get("current_node")
    seen: set[object] = set()
    while isinstance(node_id, str) and node_id not in seen and isinstance(node := mapping.get(node_id), dict):
        seen.add(node_id)
        branch.append(node.get("message"))
        node_id = node.get("parent")
    for message in reversed(branch):
        if not isinstance(message, dict) or _is_hidden(message) or message.get("recipient", "all") != "all":
            continue  # what is said to a tool is not said to the user
        author, content = message.get("author"), message.get("content")
        if isinstance(author, dict) and isinstance(content, dict) and isinstance(content.get("parts"), list):
            text = _join(map(_read_part, content["parts"]))
            yield from _make_message(author.get("role"), text, message.get("create_time") or chat.get("create_time"))


def _read_part(part: object) -> object:
    """A part's text; that of one that was spoken is its transcript."""
    return part.get("text") if isinstance(part, dict) else part


def _is_hidden(message: dict[str, Any]) -> bool:
    metadata = message.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("is_visually_hidden_from_conversation"))


def _make_message(role: object, text: str, moment: object) -> Iterator[ImportedMessage]:
    """One message, or none if nobody we know said it or it has no text."""
    kind = _ROLES.get(role) if isinstance(role, str) else None
    if kind and text.strip():
        yield ImportedMessage(kind, text, _read_moment(moment))


def _read_moment(moment: object) -> str:
    """Seconds since the epoch, or RFC 3339; now for what is neither."""
    try:
        if isinstance(moment, int | float):
            return format_time(datetime.fromtimestamp(moment, UTC))
        return format_time(parse_time(str(moment)))
    except (ValueError, OverflowError, OSError):
        return now_text()


def _join(parts: Iterable[object]) -> str:
    return "\n\n".join(part for part in map(_as_text, parts) if part.strip())


def _as_text(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else ""
