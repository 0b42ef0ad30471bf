"""The files of an export: the one that is given, or those of a ZIP archive that can hold conversations or memories.

An archive is never unpacked: its members are read by name, and it is refused when it holds anything that could only be
meant to lead elsewhere. What an entry says of its size is not believed.
"""

import io
import json
import lzma
import stat
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO, TextIO, cast

from staffstream.errors import SetupError
from staffstream.memory.chat_import.past import Report

MAX_CHARACTERS = 1024 * 1024 * 1024
UNREADABLE = (  # what zipfile lets through of a damaged or encrypted archive, or of one packed in another way
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError
)  # fmt: skip
_MAX_MEMBERS = 100_000
_KNOWN_NAMES = ("conversations", "memories", "projects", "project", "messages", "archival", "passages")
_KNOWN_FOLDERS = frozenset({"projects"})
_DATA = frozenset({".json", ".jsonl", ".af"})
_ACCOUNT = frozenset({"user.json", "users.json", "user_settings.json"})


def open_texts(path: Path, report: Report) -> Generator[TextIO, None, None]:
    """The texts to read, one after the other, whatever Unicode encoding they have. Raises SetupError."""
    if not path.is_file():
        raise SetupError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            yield _decode(file)
        return
    with zipfile.ZipFile(path) as archive:
        for member in _list_members(archive, path, report):
            with archive.open(member) as packed:
                yield _decode(packed)


def _decode(file: IO[bytes]) -> TextIO:
    """The file as text: UTF-8, UTF-16 or UTF-32, with a byte order mark or without."""
    buffered = io.BufferedReader(cast(io.RawIOBase, file))
    return io.TextIOWrapper(buffered, encoding=json.detect_encoding(buffered.peek(4)[:4]))


def _list_members(archive: zipfile.ZipFile, path: Path, report: Report) -> list[zipfile.ZipInfo]:
    """The members to read: in any folder, since people unpack an export and pack it again."""
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise SetupError(f"{path} holds more than {_MAX_MEMBERS} files.")
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        leads_out = not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]
        if leads_out or stat.S_ISLNK(member.external_attr >> 16):
            raise SetupError(f"{path} holds a link, or a name that leads out of it.")
    files = [member for member in members if not member.is_dir() and not _is_system_file(member.filename)]
    data = [member for member in files if _name_of(member).suffix.lower() in _DATA]
    wanted = [member for member in data if _has_known_name(member)]
    if not wanted:  # an archive that somebody packed of single files
        wanted = [member for member in data if _name_of(member).name.lower() not in _ACCOUNT]
    if not wanted:
        raise SetupError(f"{path} holds no conversations.json, nor another file that can be imported.")
    names = {member.filename for member in wanted}
    for member in files:
        if member.filename not in names:
            report.leave_out("files that are no conversations" if member in data else "pictures and other files")
    return wanted


def _has_known_name(member: zipfile.ZipInfo) -> bool:
    name = _name_of(member)
    known = name.stem.lower().startswith(_KNOWN_NAMES) or name.suffix.lower() == ".af"
    return known or bool(_KNOWN_FOLDERS.intersection(name.parts[:-1]))


def _is_system_file(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "__MACOSX" in parts or parts[-1].startswith("._")


def _name_of(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))
