"""What each format's reader takes, and what it counts as left out."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from staffstream.memory.chat_import import PastChat, PastMemory, Report, read_export
from tests.tools.commands import run_command
from tests.tools.provider import ScriptedProvider
from tests.tools.server import serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

NOBODY = "00000000-0000-4000-8000-000000000000"


def read(tmp_path: Path, value: Any, encoding: str = "utf-8") -> tuple[list[str], list[str], dict[str, int]]:
    """The texts of the messages, the memories, and what was left out."""
    path = tmp_path / "export.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding)
    report = Report()
    items = list(read_export(path, report))
    messages = [m.content for item in items if isinstance(item, PastChat) for m in item.messages]
    return messages, [item.text for item in items if isinstance(item, PastMemory)], dict(report.left_out)


def claude(uuid: str, parent: str, sender: str, text: str, at: int, **more: Any) -> dict[str, Any]:
    return {
        "uuid": uuid, "parent_message_uuid": parent, "sender": sender, "text": text, "content": [],
        "created_at": f"2025-03-01T10:00:{at:02}Z", **more,
    }  # fmt: skip


def test_claude_attachments_artifacts_and_branches(tmp_path: Path) -> None:
    """Of two branches the one seen last; an attachment's text, an artifact's text and its change; files are counted."""
    create = {"command": "create", "id": "a", "title": "Poem", "content": "Roses are red."}
    update = {"command": "update", "id": "a", "old_str": "red", "new_str": "blue"}
    calls = [{"type": "tool_use", "name": "artifacts", "input": call} for call in (create, update)]
    attachment = {"file_name": "notes.txt", "extracted_content": "Buy goats."}
    messages = [
        claude("1", NOBODY, "human", "Read this.", 1, attachments=[attachment], files=[{"file_name": "cat.png"}]),
        claude("2", "1", "assistant", "A thrown away answer.", 2),
        claude("3", "1", "assistant", "", 3, content=[{"type": "thinking", "thinking": "hm"}, *calls]),
    ]
    found, _, left_out = read(tmp_path, [{"uuid": "c", "name": "Goats", "chat_messages": messages}])
    assert found == ["Read this.\n\nnotes.txt\n\nBuy goats.", "Poem\n\nRoses are red.\n\nblue"]
    assert left_out == {
        "messages of branches that were left": 1, "pictures and other files": 1, "the model's thoughts": 1,
    }  # fmt: skip


def test_claude_memories_and_projects(tmp_path: Path) -> None:
    """A re-zipped folder: memories line by line, documents as messages, account data counted."""
    path = tmp_path / "again.zip"
    project = {"uuid": "p", "name": "Farm", "docs": [{"filename": "plan.md", "content": "Plant oats."}]}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("export/conversations.json", json.dumps([]))
        archive.writestr("export/memories.json", json.dumps([{"conversations_memory": "# Work\n- Kim breeds goats."}]))
        archive.writestr("export/projects/p.json", json.dumps(project))
        archive.writestr("export/users.json", "[]")
        archive.writestr("__MACOSX/export/._conversations.json", b"\0")
    report = Report()
    memory, chat = read_export(path, report)
    assert memory == PastMemory("Kim breeds goats.")
    assert isinstance(chat, PastChat)
    assert (chat.title, chat.messages[0].content) == ("Farm", "plan.md\n\nPlant oats.")
    assert report.left_out == {"files that are no conversations": 1}


def gpt(key: str, parent: str | None, role: str, content: Any, at: float | None, **more: Any) -> dict[str, Any]:
    body = content if isinstance(content, dict) else {"content_type": "text", "parts": [content]}
    message = {"author": {"role": role}, "content": body, "create_time": at} | more
    return {"id": key, "parent": parent, "children": [], "message": message}


def test_chatgpt_broken_trees_are_followed_from_their_leaves(tmp_path: Path) -> None:
    """Without a current node the newest leaf; beyond a missing parent the newest leaf before; times in milliseconds."""
    nodes = [
        gpt("a", None, "user", "First.", 1700000000000),
        gpt("b", "a", "assistant", "Second.", 1700000001000),
        gpt("c", "gone", "user", "Third.", 1700000002000),
        gpt("d", "c", "assistant", "Fourth.", 1700000003000),
    ]
    chat = {"title": "x", "mapping": {node["id"]: node for node in nodes}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(chat))
    [found] = read_export(path)
    assert isinstance(found, PastChat)
    assert [m.content for m in found.messages] == ["First.", "Second.", "Third.", "Fourth."]
    assert found.messages[0].created_at == "2023-11-14T22:13:20.000Z"


def test_chatgpt_canvas_instructions_memories_and_citations(tmp_path: Path) -> None:
    """Canvas documents are text, instructions and saved memories are memories, marks of citations go."""
    canvas = {"content_type": "code", "text": json.dumps({"name": "Plan", "content": "Plant oats."})}
    saved = {"content_type": "model_editable_context", "model_set_context": "1. [2024-05-01]. User breeds goats."}
    custom = {"content_type": "user_editable_context", "user_profile": "I live in Hol."}
    cited = (
        'Goats climb \ue200cite\ue202turn0search1\ue201. Also oats 【4†source】. \ue200entity\ue202["x","Hol"]\ue201!'
    )
    nodes = [
        gpt("a", None, "system", custom, None),
        gpt("b", "a", "system", saved, None),
        gpt("c", "b", "user", "Write a plan .", 1.0),
        gpt("d", "c", "assistant", canvas, 2.0, recipient="canmore.create_textdoc"),
        gpt("e", "d", "assistant", cited, 3.0),
    ]
    wrapped = {"conversations": [{"mapping": {node["id"]: node for node in nodes}, "current_node": "e"}]}
    messages, memories, _ = read(tmp_path, wrapped, "utf-16")
    assert messages == ["Write a plan .", "Plan\n\nPlant oats.", "Goats climb. Also oats. Hol!"]
    assert memories == ["I live in Hol.", "User breeds goats."]


def test_letta_agent_files_pages_and_archival_memory(tmp_path: Path) -> None:
    """Replies sent by a tool, users' words out of their envelope, blocks about the user; pages overlap."""
    sent = {"function": {"name": "send_message", "arguments": json.dumps({"message": "Hello Kim."})}}
    agent = {
        "name": "Sam",
        "messages": [
            {"role": "system", "content": "You are Sam.", "created_at": "2025-01-01T00:00:00Z"},
            {"role": "user", "content": json.dumps({"type": "user_message", "message": "I am Kim."}),
             "created_at": "2025-01-01T00:00:01Z"},
            {"role": "assistant", "content": "She is Kim.", "tool_calls": [sent], "created_at": "2025-01-01T00:00:02Z"},
        ],
    }  # fmt: skip
    blocks = [{"label": "human", "value": "Name: Kim"}, {"label": "persona", "value": "I am Sam."}]
    messages, memories, left_out = read(tmp_path, {"agents": [agent], "blocks": blocks, "tools": [{}]})
    assert (messages, memories) == (["I am Kim.", "Hello Kim."], ["Name: Kim"])
    assert left_out == {
        "instructions of the system": 1, "the model's thoughts": 1, "memory blocks that are not about the user": 1,
        "tools": 1,
    }  # fmt: skip
    page = [
        {"id": "2", "message_type": "assistant_message", "content": "Hi.", "date": "2025-01-01T00:00:02Z"},
        {"id": "1", "message_type": "user_message", "content": [{"type": "text", "text": "Yo."}],
         "date": "2025-01-01T00:00:01Z"},
        {"id": "2", "message_type": "assistant_message", "content": "Hi.", "date": "2025-01-01T00:00:02Z"},
        {"id": "0", "message_type": "reasoning_message", "reasoning": "hm", "date": "2025-01-01T00:00:00Z"},
    ]  # fmt: skip
    assert read(tmp_path, page) == (["Yo.", "Hi."], [], {"the model's thoughts": 1})
    passages = [{"id": "p", "text": "Kim breeds goats.", "embedding": [0.1], "created_at": "2025-01-01T00:00:00Z"}]
    assert read(tmp_path, passages)[1] == ["Kim breeds goats."]


def test_mem0_lists_pages_and_relations(tmp_path: Path) -> None:
    """Dated memories once each, relations as statements, what has expired counted."""
    memories = [
        {"id": "1", "memory": "Kim breeds goats.", "created_at": "2025-01-01T00:00:00Z"},
        {"id": "2", "memory": "Kim breeds goats."},
        {"id": "3", "memory": "A parking ticket.", "expiration_date": "2020-01-01"},
    ]
    relations = [{"source": "kim", "relationship": "lives_in", "destination": "hol"}]
    found = read(tmp_path, {"results": memories, "relations": relations})
    assert found == ([], ["Kim breeds goats.", "kim lives in hol"], {"memories that have expired": 1})
    assert read(tmp_path, memories)[1] == ["Kim breeds goats."]


async def test_an_import_tells_counts_and_price_and_keeps_dates(
    db: Path, tmp_path: Path, provider: ScriptedProvider
) -> None:
    """--dry-run saves nothing and tells the price; --learn has the server learn; conversations keep their dates."""
    path = tmp_path / "export.json"
    messages = [claude("1", NOBODY, "human", "I live in Hol.", 1, files=[{"file_name": "cat.png"}])]
    path.write_text(json.dumps([{"uuid": "c", "name": "Home", "chat_messages": messages}]))
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
    dry = run_command("import", path, "--staff", "Ada", "--dry-run", db=db)
    assert dry.returncode == 0, dry.stderr
    for said in ("would import 1 conversations with 1 messages", "1 pictures and other files", "US$ 0.00", "1 calls"):
        assert said in dry.stdout
    done = run_command("import", path, "--staff", "Ada", "--learn", db=db)
    assert done.returncode == 0, done.stderr
    async with serve_here(db, provider) as api:
        [made] = await api.get(f"/staff/{ada}/conversations")
        assert made["created_at"] == made["updated_at"] == "2025-03-01T10:00:01.000Z"
        await until(lambda: [request for request in provider.requests if request.schema])
        asked = [request.said for request in provider.requests if request.schema][-1]
        assert 'date="2025-03-01" weekday="Saturday" time="10:00">I live in Hol.<' in asked
