"""Reads the export of Claude.ai: conversations with their attachments and artifacts, memories, project documents."""

import re
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

_ARTIFACT_TAG = re.compile(r"</?antArtifact\b[^>]*>")
_THINKING_TAG = re.compile(r"<antThinking>.*?</antThinking>", re.DOTALL)
_SILENT_BLOCKS = {"thinking": "the model's thoughts", "redacted_thinking": "the model's thoughts"}


def is_chat(item: dict[str, Any]) -> bool:
    """Whether an object of the export is a conversation."""
    return isinstance(item.get("chat_messages"), list)


def is_project(item: dict[str, Any]) -> bool:
    """Whether it is a project with documents."""
    return isinstance(item.get("docs"), list) and "name" in item


def is_memories(item: dict[str, Any]) -> bool:
    """Whether it holds what Claude.ai remembered of the user."""
    return "conversations_memory" in item or "project_memories" in item


def read_chat(chat: dict[str, Any], report: Report) -> PastChat:
    """The conversation as its user saw it last."""
    branch = _find_last_branch(list_objects(chat["chat_messages"]), chat.get("current_leaf_message_uuid"), report)
    artifacts: dict[str, str] = {}
    messages: list[ImportedMessage] = []
    for message in branch:
        text = _read_message(message, artifacts, report)
        messages += make_message(message.get("sender"), text, message.get("created_at") or chat.get("created_at"))
    return PastChat(read_text(chat.get("name")), messages)


def read_project(project: dict[str, Any]) -> PastChat:
    """A project's instructions and documents, as messages of the user."""
    moment = project.get("updated_at") or project.get("created_at")
    texts = [(join_texts([project.get("description"), project.get("prompt_template")]), moment)]
    for document in list_objects(project["docs"]):
        text = join_texts([document.get("filename"), document.get("content")])
        texts.append((text if read_text(document.get("content")).strip() else "", document.get("created_at") or moment))
    messages = [message for text, time in texts for message in make_message("user", text, time)]
    return PastChat(read_text(project.get("name")), messages)


def read_memories(item: dict[str, Any]) -> Iterator[PastMemory]:
    """What Claude.ai remembered, of all conversations and of each project."""
    yield from make_memories(item.get("conversations_memory"))
    projects = item.get("project_memories")
    for text in projects.values() if isinstance(projects, dict) else ():
        yield from make_memories(text)


def _find_last_branch(messages: list[dict[str, Any]], leaf: object, report: Report) -> list[dict[str, Any]]:
    """From the first message to the one that was shown last: the named leaf, else the newest message.

    Messages without parents are one branch, in their order.
    """
    by_id = {key: message for message in messages if isinstance(key := message.get("uuid"), str)}
    if not any(message.get("parent_message_uuid") in by_id for message in messages):
        return messages
    newest = max(messages, key=lambda message: read_text(message.get("created_at")))
    message = by_id.get(leaf, newest) if isinstance(leaf, str) else newest
    branch: list[dict[str, Any]] = []
    seen: set[int] = set()
    while message is not None and id(message) not in seen:
        seen.add(id(message))
        branch.append(message)
        parent = message.get("parent_message_uuid")
        message = by_id.get(parent) if isinstance(parent, str) else None  # type: ignore[assignment]
    report.leave_out("messages of branches that were left", len(messages) - len(branch))
    return branch[::-1]


def _read_message(message: dict[str, Any], artifacts: dict[str, str], report: Report) -> str:
    parts: list[object] = []
    for block in list_objects(message.get("content")):
        kind = read_text(block.get("type"))
        if isinstance(block.get("text"), str):
            parts.append(_clean(block["text"]))
        elif kind == "tool_use" and block.get("name") == "artifacts":
            parts.append(_read_artifact(block.get("input"), artifacts))
        elif kind:
            report.leave_out(_SILENT_BLOCKS.get(kind, "calls of tools and their results"))
    text = join_texts(parts) or _clean(read_text(message.get("text")))
    attached = [_read_attachment(each) for each in list_objects(message.get("attachments"))]
    report.leave_out("attachments without text", attached.count(""))
    report.leave_out("pictures and other files", len(list_objects(message.get("files"))))
    return join_texts([text, *attached])


def _read_attachment(attachment: dict[str, Any]) -> str:
    content = read_text(attachment.get("extracted_content"))
    return join_texts([attachment.get("file_name"), content]) if content.strip() else ""


def _read_artifact(call: object, artifacts: dict[str, str]) -> str:
    """What an artifact's call wrote: all of a new version, or the words that it put in the place of others."""
    if not isinstance(call, dict):
        return ""
    key, title = read_text(call.get("id")), read_text(call.get("title"))
    if read_text(call.get("content")).strip():
        artifacts[key] = read_text(call["content"])
        return join_texts([title, artifacts[key]])
    old, new = read_text(call.get("old_str")), read_text(call.get("new_str"))
    artifacts[key] = artifacts.get(key, "").replace(old, new, 1) if old else new
    return new


def _clean(text: str) -> str:
    return _ARTIFACT_TAG.sub("", _THINKING_TAG.sub("", read_text(text)))
