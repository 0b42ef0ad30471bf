"""Past chats from elsewhere, imported."""

import asyncio
import contextlib
import json
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffstream.errors import SetupError
from staffstream.memory import chat_import
from staffstream.memory.chat_import import json_stream
from tests.tools.commands import run_command
from tests.tools.provider import ScriptedProvider
from tests.tools.server import serve_here

pytestmark = pytest.mark.anyio


def make_chatgpt() -> list[Any]:
    """One conversation whose first answer was made twice, as its user last saw it."""

    def node(key: str, parent: str | None, role: str, parts: list[Any], **more: Any) -> dict[str, Any]:
        content = {"content_type": "text", "parts": parts}
        message = {"author": {"role": role}, "content": content, "create_time": 1700000000.5 + len(key)} | more
        return {"id": key, "parent": parent, "children": [], "message": message}

    nodes = [
        {"id": "root", "parent": None, "children": ["s"], "message": None},
        node("s", "root", "system", [""], metadata={"is_visually_hidden_from_conversation": True}),
        node("q", "s", "user", ["My aunt Solveig breeds goats in Hemsedal."]),
        node("a1", "q", "assistant", ["An answer that was thrown away."]),
        node("a2", "q", "assistant", ["Goats are ", {"content_type": "image_asset_pointer"}, "clever."]),
        node("t0", "a2", "assistant", ["User has an aunt."], recipient="bio"),
        node("t", "t0", "tool", ["a tool's output"]),
        {"id": "n", "parent": "t", "children": ["q2"], "message": None},
        node("q2", "n", "user", ["   "], create_time=None),
        node("q3", "q2", "user", [{"content_type": "audio_transcription", "text": "Thanks!"}, {"text": None}, None]),
        {"id": "lost", "parent": "nowhere", "children": []},
    ]
    return [{"title": "Goats", "create_time": 1700000000, "current_node": "q3", "mapping": {n["id"]: n for n in nodes}}]


def make_claude() -> list[Any]:
    """One conversation with blocks, old text fields and things that are no text; another with nothing in it."""
    said = [
        {"sender": "human", "text": "old", "content": [{"type": "text", "text": "My boat is called Tone."}]},
        {"sender": "assistant", "text": "A fine name.", "content": []},
        {"sender": "assistant", "text": "", "content": [{"type": "tool_use", "input": {}}]},
    ]
    times = ["2025-03-01T10:00:00.123456Z", "2025-03-01T10:00:05Z", "x"]
    messages = [message | {"created_at": time} for message, time in zip(said, times, strict=True)]
    return [
        {"uuid": "1", "name": "Boats", "created_at": times[0], "chat_messages": [*messages, "nonsense"]},
        {"uuid": "2", "name": "Nothing said", "chat_messages": []},
    ]


def read_all(path: Path, **options: int) -> list[Any]:
    return list(chat_import.read_export(path, **options))


def make_zip(path: Path, **files: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in files.items():
            archive.writestr(name.replace("__", "."), json.dumps(value))
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_chatgpt_chats_are_read_as_their_user_saw_them(tmp_path: Path, zipped: bool) -> None:
    """The last branch alone, without what was hidden, tools, images and blank messages."""
    path = tmp_path / "export"
    if zipped:
        make_zip(path, conversations__json=make_chatgpt(), user__json={"email": "x"})
    else:
        path.write_text(json.dumps(make_chatgpt()))
    memory, chat = chat_import.read_export(path)
    assert memory == chat_import.PastMemory("User has an aunt.", "2023-11-14T22:13:22.500Z")
    assert chat.title == "Goats"
    assert [(message.message_type, message.content) for message in chat.messages] == [
        ("user", "My aunt Solveig breeds goats in Hemsedal."),
        ("assistant", "Goats are \n\nclever."),
        ("user", "Thanks!"),
    ]
    assert chat.messages[0].created_at == "2023-11-14T22:13:21.500Z"


def test_claude_chats_are_read(tmp_path: Path) -> None:
    """Blocks of text go before the old text field; conversations without any text are left out."""
    (chat,) = chat_import.read_export(make_zip(tmp_path / "e.zip", conversations__json=make_claude()))
    assert [(message.message_type, message.content, message.created_at) for message in chat.messages] == [
        ("user", "My boat is called Tone.", "2025-03-01T10:00:00.123Z"),
        ("assistant", "A fine name.", "2025-03-01T10:00:05.000Z"),
    ]


def test_chats_that_nobody_is_named_for_are_told_apart(db: Path, tmp_path: Path) -> None:
    """From an export of ours, with what is missing."""
    path = make_zip(tmp_path / "e.zip", conversations__json=make_claude())
    refused = run_command("import", path, db=db)
    assert refused.returncode == 2
    assert "need --staff" in refused.stderr


async def test_past_chats_can_be_recalled(db: Path, tmp_path: Path, provider: ScriptedProvider) -> None:
    """By the user they were imported for, from a server that ran all along."""
    path = make_zip(tmp_path / "e.zip", conversations__json=make_chatgpt() + make_claude())
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        done = await asyncio.to_thread(run_command, "import", path, "--staff", "Ada", db=db)
        assert done.returncode == 0, done.stderr
        assert "2 conversations with 5 messages" in done.stdout
        other = await asyncio.to_thread(run_command, "import", path, "--staff", ada, "--user", "kim", db=db)
        assert other.returncode == 0, other.stderr
        assert {item["title"] for item in await api.get(f"/staff/{ada}/conversations")} == {"Goats", "Boats"}
        found = await api.get(f"/staff/{ada}/memories", params={"query": "What is the boat called?"})
        assert found[0]["text"] == "My boat is called Tone."
        assert found[0]["occurred_at"].startswith("2025-03-01")


def put(name: str, *, mode: int = 0o100600) -> Callable[[zipfile.ZipFile], None]:
    """One more member with this name."""

    def write(archive: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo("x")
        member.filename = name
        member.external_attr = mode << 16
        archive.writestr(member, "target")

    return write


def test_damaged_archives_are_told(tmp_path: Path) -> None:
    """Wherever a byte is wrong: a sentence of ours, or what could be read."""
    path = make_zip(tmp_path / "e.zip", conversations__json=make_claude())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(SetupError):
            read_all(path)


@pytest.mark.parametrize(
    "add",
    [
        put("../evil.json"), put("/etc/evil"), put("a/../../evil"), put("..\\evil"), put("C:\\evil"), put("C:/evil"),
        put("link", mode=stat.S_IFLNK | 0o777), put("."), put("./"),
    ],
)  # fmt: skip
def test_archives_that_lead_elsewhere_are_refused(tmp_path: Path, add: Callable[[zipfile.ZipFile], None]) -> None:
    """Though nothing is ever unpacked: they were made for harm."""
    path = make_zip(tmp_path / "e.zip", conversations__json=make_claude())
    with zipfile.ZipFile(path, "a") as archive:
        add(archive)
    with pytest.raises(SetupError, match="leads out of it"):
        read_all(path)


def test_archives_that_swell_are_refused(tmp_path: Path) -> None:
    """By what is really in them, whatever they say, and all of their files together."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"conversations-{number}.json", b" " * 400_000 + b"[]")
    assert path.stat().st_size < 10_000
    assert read_all(path) == []
    with pytest.raises(SetupError, match="more than it may"):
        read_all(path, most_characters=1_000_000)
    plain = tmp_path / "large.json"
    plain.write_bytes(b" " * 2000 + b"[]")
    with pytest.raises(SetupError, match="more than it may"):
        read_all(plain, most_characters=1000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}",
        b"[{},]",
        b"[{} {}]",
        b"[]]",
        b"[,]",
        b'[{"a":' + b"[" * 100_000,
        b'[{"a": 1}]',
        b"[",
        b"PK\x05\x06" + b"\0" * 18,
        b'{"conversations": []}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_export_of_theirs_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty archive, other JSON, no JSON."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SetupError):
        read_all(path)
    with pytest.raises(SetupError):
        read_all(tmp_path / "missing")


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    """And one whose bytes were changed."""
    whole = make_zip(tmp_path / "e.zip", conversations__json=make_claude()).read_bytes()
    for data in (whole[:-30], whole[:40] + b"\0\0\0\0" + whole[44:]):
        path = tmp_path / "broken.zip"
        path.write_bytes(data)
        with pytest.raises(SetupError):
            read_all(path)


def test_chats_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pieces are in which the text comes, and however the list is written; what is wrong later is told
    later.
    """
    chats = make_chatgpt() + make_claude()
    path = tmp_path / "chats.json"
    for text in (json.dumps(chats), json.dumps(chats, indent=4), json.dumps(chats, ensure_ascii=False)):
        path.write_text("\ufeff " + text + "\n\n", "utf-8")
        for piece in (1, 2, 7, 1000, 10**6):
            monkeypatch.setattr(json_stream, "PIECE_CHARACTERS", piece)
            assert [chat.title for chat in read_all(path)[1:]] == ["Goats", "Boats"]
    path.write_text(json.dumps(chats)[:-1] + ", 7]")
    reading = chat_import.read_export(path)
    next(reading)
    assert next(reading).title == "Goats"
    with pytest.raises(SetupError):
        list(reading)


def test_a_large_export_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much less than its size: it may be larger than the machine's memory."""
    monkeypatch.setattr(json_stream, "PIECE_CHARACTERS", 10_000)
    one = json.dumps(make_claude()[0])
    path = make_zip(tmp_path / "e.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", "[" + ",".join([one] * 2000) + "]")
        size = archive.infolist()[0].file_size
    tracemalloc.start()
    assert sum(1 for _ in chat_import.read_export(path)) == 2000
    assert tracemalloc.get_traced_memory()[1] < size / 3
    tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["mapping", "current_node", "message", "parent", "author", "role", "content", "parts", "a"])
            | st.sampled_from(
                ["chat_messages", "sender", "text", "name", "title", "created_at", "create_time", "metadata"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(chats=st.lists(JSON, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strange_exports_are_read_or_refused(tmp_path: Path, chats: list[Any]) -> None:
    """Their format may change in ways nobody foresees."""
    path = tmp_path / "strange.json"
    path.write_text(json.dumps(chats))
    with contextlib.suppress(SetupError):
        for item in chat_import.read_export(path):
            texts = [item.text] if isinstance(item, chat_import.PastMemory) else [m.content for m in item.messages]
            assert texts
            assert all(text.strip() for text in texts)
