"""Reads what Letta exports: agent files (`.af`), pages of an agent's messages, and its archival memory."""

import json
from collections.abc import Iterator
from typing import Any

from staffstream.memory.chat_import.past import (
    PastChat,
    PastMemory,
    Report,
    join_texts,
    list_objects,
    make_memories,
    make_message,
    read_text,
)
from staffstream.storage.messages import ImportedMessage

Json = dict[str, Any]

_ROLES = {"user_message": "user", "assistant_message": "assistant"}
_ABOUT_USER = ("human", "user")  # labels of blocks that hold what the agent knows of its user


def is_agent_file(item: Json) -> bool:
    """Whether an object is an agent file: one agent (the older form), or several with their blocks."""
    old = isinstance(item.get("messages"), list) and ("core_memory" in item or "agent_type" in item)
    return old or isinstance(item.get("agents"), list)


def is_message(item: Json) -> bool:
    """Whether it is one message of a page."""
    return isinstance(item.get("message_type"), str) and "id" in item


def is_page(item: Json) -> bool:
    """Whether it is a page that wraps its messages."""
    return any(map(is_message, list_objects(item.get("messages"))))


def is_passage(item: Json) -> bool:
    """Whether it is a passage of archival memory."""
    return isinstance(item.get("text"), str) and ("embedding" in item or "archive_id" in item or "source_id" in item)


def read_agent_file(item: Json, report: Report) -> Iterator[PastChat | PastMemory]:
    """Each agent's conversation, what it knows of its user, and its passages."""
    agents = list_objects(item.get("agents")) or [item]
    for agent in agents:
        parts = [m for message in list_objects(agent.get("messages")) for m in _read_stored(message, report)]
        if messages := sorted(parts, key=lambda message: message.created_at):
            yield PastChat(read_text(agent.get("name")), messages)
    for holder in (item, *(agents if agents != [item] else ())):
        for block in (*list_objects(holder.get("blocks")), *list_objects(holder.get("core_memory"))):
            if read_text(block.get("label")).startswith(_ABOUT_USER):
                yield from make_memories(block.get("value"), block.get("updated_at"))
            else:
                report.leave_out("memory blocks that are not about the user")
        for name in ("passages", "archival_memory"):
            yield from (memory for passage in list_objects(holder.get(name)) for memory in read_passage(passage))
        report.leave_out("tools", len(list_objects(holder.get("tools"))))
        report.leave_out("files", len(list_objects(holder.get("files"))))


def read_passage(passage: Json) -> Iterator[PastMemory]:
    """One passage of archival memory."""
    if text := read_text(passage.get("text")).strip():
        (dated,) = list(make_memories("x", passage.get("created_at")))
        yield PastMemory(text, dated.occurred_at)


def read_page_message(message: Json, report: Report) -> Iterator[ImportedMessage]:
    """A message as a page of Letta's API shows it."""
    kind = message["message_type"]
    if kind not in _ROLES:
        report.leave_out("the model's thoughts" if "reasoning" in kind else "calls of tools and their results")
        return
    text = _unwrap(_join_content(message.get("content")), report)
    yield from make_message(_ROLES[kind], text, message.get("date") or message.get("created_at"))


def _read_stored(message: Json, report: Report) -> Iterator[ImportedMessage]:
    """A message as an agent file stores it. A reply may be the argument of a call of `send_message`; the message's own
    text is then the model's thoughts.
    """
    role, moment = message.get("role"), message.get("created_at")
    content = _join_content(message.get("content") or message.get("text"))
    if role == "user":
        yield from make_message(role, _unwrap(content, report), moment)
        return
    if role != "assistant":
        report.leave_out("instructions of the system" if role == "system" else "calls of tools and their results")
        return
    calls = list_objects(message.get("tool_calls"))
    sent = [text for call in calls if (text := _read_sent(call))]
    report.leave_out("calls of tools and their results", len(calls) - len(sent))
    if calls:
        report.leave_out("the model's thoughts", int(bool(content.strip())))
    yield from make_message(role, join_texts(sent) if calls else content, moment)


def _read_sent(call: Json) -> str:
    function = call.get("function")
    if not isinstance(function, dict) or function.get("name") != "send_message":
        return ""
    return read_text(_parse_object(function.get("arguments")).get("message"))


def _unwrap(text: str, report: Report) -> str:
    """A user's words, out of the envelope that older agents put around them; no words of an event."""
    envelope = _parse_object(text)
    if "type" not in envelope:
        return text
    if envelope["type"] == "user_message":
        return read_text(envelope.get("message"))
    report.leave_out("instructions of the system")
    return ""


def _join_content(content: object) -> str:
    if isinstance(content, list):
        return join_texts(part.get("text") for part in list_objects(content) if part.get("type", "text") == "text")
    return read_text(content)


def _parse_object(text: object) -> Json:
    try:
        value = json.loads(text) if isinstance(text, str) and text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}
