"""Reads the export of ChatGPT: conversations as trees of messages, canvas documents, custom instructions and saved
memories.
"""

import json
import re
from collections.abc import Iterator, Sequence
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

_MARK = re.compile("( ?)\ue200([a-z_]*)\ue202?([^\ue200\ue201]*)\ue201")
"""A mark in the text: the blank before it, its kind, and its parts between U+E202."""
_OLD_CITATION = re.compile(r" ?【[^【】]*?†[^【】]*】")
_LEFT_OVER = re.compile("[\ue200-\ue206]")
_DATED = re.compile(r"^\s*\d+\.\s*\[(\d{4}-\d{2}-\d{2})\]\.?\s*(.+)$", re.MULTILINE)
_SILENT = {"thoughts": "the model's thoughts", "reasoning_recap": "the model's thoughts"}


def is_chat(item: Json) -> bool:
    """Whether an object of the export is a conversation."""
    return isinstance(item.get("mapping"), dict)


def read_chat(chat: Json, report: Report) -> Iterator[PastChat | PastMemory]:
    """The conversation as its user saw it last, and the memories that were saved in it."""
    branch = _find_last_branch(chat["mapping"], chat.get("current_node"))
    report.leave_out("messages of branches that were left", _count_messages(chat["mapping"].values(), branch))
    messages: list[ImportedMessage] = []
    for message in branch:
        moment = message.get("create_time") or chat.get("create_time")
        yield from _read_memories(message, moment)
        author = message.get("author")
        role = author.get("role") if isinstance(author, dict) else None
        messages += make_message(role, _read_message(message, role, report), moment)
    if messages:
        yield PastChat(read_text(chat.get("title")), messages)


# ── the branch that was shown last ───────────────────────────────────────────────────────────────────────────────────


def _find_last_branch(mapping: Json, current: object) -> list[Json]:
    """The messages from the root to the current node, or to the newest leaf if there is no such node.

    Where a parent is missing, the branch goes on from the newest leaf before that node.
    """
    nodes = {key: node for key, node in mapping.items() if isinstance(node, dict)}
    parents = _find_parents(nodes)
    node_id = current if isinstance(current, str) and current in nodes else _find_leaf(nodes, parents, set(), None)
    branch: list[Json] = []
    seen: set[str] = set()
    time: float | None = None
    while node_id is not None and node_id not in seen:
        seen.add(node_id)
        message = nodes[node_id].get("message")
        if isinstance(message, dict):
            branch.append(message)
            time = _read_time(message, time)
        parent = parents.get(node_id)
        lost = parent is not None and parent not in nodes
        node_id = _find_leaf(nodes, parents, seen, time) if lost and time is not None else parent
        node_id = node_id if node_id in nodes else None
    return branch[::-1]


def _find_parents(nodes: dict[str, Json]) -> dict[str, str]:
    """Each node's parent, by its own word or by a parent's list of children."""
    parents: dict[str, str] = {}
    for key, node in nodes.items():
        children = node.get("children")
        for child in children if isinstance(children, list) else ():
            if isinstance(child, str):
                parents[child] = key
    named = {key: node["parent"] for key, node in nodes.items() if isinstance(node.get("parent"), str)}
    return named | {child: key for child, key in parents.items() if named.get(child) not in nodes}


def _find_leaf(nodes: dict[str, Json], parents: dict[str, str], seen: set[str], before: float | None) -> str | None:
    """The newest node with a message that is nobody's parent, of those not seen and older than `before`."""
    inner = {parents[key] for key in nodes if key in parents}
    leaves = [key for key in nodes if key not in inner and key not in seen and _has_message(nodes[key])]
    times = {key: _read_time(nodes[key]["message"], 0.0) or 0.0 for key in leaves}
    older = [key for key in leaves if before is None or times[key] < before]
    return max(reversed(older), key=times.__getitem__, default=None)


def _has_message(node: Json) -> bool:
    return isinstance(node.get("message"), dict)


def _read_time(message: Json, otherwise: float | None) -> float | None:
    time = message.get("create_time")
    return float(time) if isinstance(time, int | float) and not isinstance(time, bool) else otherwise


def _count_messages(nodes: Any, branch: Sequence[Json]) -> int:
    """How many messages with text of the user or the assistant are not in the branch."""
    kept = {id(message) for message in branch}
    others = [node["message"] for node in nodes if isinstance(node, dict) and _has_message(node)]
    return sum(id(each) not in kept and bool(list(_read_plain(each))) for each in others)


def _read_plain(message: Json) -> Iterator[ImportedMessage]:
    author = message.get("author")
    role = author.get("role") if isinstance(author, dict) else None
    return make_message(role, _read_message(message, role, Report()), None)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_message(message: Json, role: object, report: Report) -> str:
    """What the user could read of a message."""
    content = message.get("content")
    if not isinstance(content, dict):
        return ""
    kind, recipient = read_text(content.get("content_type")), message.get("recipient", "all")
    if isinstance(recipient, str) and recipient.startswith("canmore."):
        return _read_canvas(content, recipient)
    if recipient == "bio" or kind in ("user_editable_context", "model_editable_context"):
        return ""  # read as memories
    if _is_hidden(message) or role == "system":
        return ""
    if role == "tool" or recipient != "all":
        report.leave_out("calls of tools and their results")
        return ""
    if kind in _SILENT:
        report.leave_out(_SILENT[kind])
        return ""
    parts = content["parts"] if isinstance(content.get("parts"), list) else [content.get("text")]
    report.leave_out("pictures and other files", sum(_is_file(part) for part in parts))
    return _drop_citations(join_texts(map(_read_part, parts)), message)


def _read_part(part: object) -> object:
    """A part's text; that of one that was spoken is its transcript."""
    return part.get("text") if isinstance(part, dict) else part


def _is_file(part: object) -> bool:
    return isinstance(part, dict) and not isinstance(part.get("text"), str) and "content_type" in part


def _read_canvas(content: Json, recipient: str) -> str:
    """The document that the assistant wrote, or what it put in the place of other words."""
    call = _parse_object(content.get("text") or join_texts(content.get("parts") or []))
    if recipient.endswith("create_textdoc"):
        return join_texts([call.get("name"), call.get("content")])
    return join_texts(update.get("replacement") for update in list_objects(call.get("updates")))


def _drop_citations(text: str, message: Json) -> str:
    """The text without the marks that stand for a source; of a mark that stands for a word, the word."""
    metadata = message.get("metadata")
    references = metadata.get("content_references") if isinstance(metadata, dict) else None
    for reference in list_objects(references):
        mark, shown = read_text(reference.get("matched_text")), read_text(reference.get("alt"))
        if mark.startswith("\ue200") and reference.get("type") not in ("grouped_webpages", "sources_footnote", "file"):
            text = text.replace(mark, shown)
    text = _MARK.sub(lambda mark: _show(mark[1], _read_mark(mark[2], mark[3].split("\ue202"))), text)
    return _LEFT_OVER.sub("", _OLD_CITATION.sub("", text))


def _show(space: str, shown: str) -> str:
    return space + shown if shown else ""


def _read_mark(kind: str, parts: list[str]) -> str:
    if kind == "entity":
        try:
            names = json.loads(parts[0])
        except ValueError:
            return ""
        return read_text(names[1]) if isinstance(names, list) and len(names) > 1 else ""
    return parts[0] if kind in ("url", "link_title") else ""


def _is_hidden(message: Json) -> bool:
    metadata = message.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("is_visually_hidden_from_conversation"))


# ── memories ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_memories(message: Json, moment: object) -> Iterator[PastMemory]:
    """Custom instructions, the list of saved memories that a conversation began with, and what was saved in it."""
    content = message.get("content")
    if not isinstance(content, dict):
        return
    for name in ("user_profile", "user_instructions"):
        if content.get("content_type") == "user_editable_context":
            yield from make_memories(_read_instructions(content.get(name)), moment)
    if content.get("content_type") == "model_editable_context":
        listed = read_text(content.get("model_set_context"))
        for day, text in _DATED.findall(listed):
            yield from make_memories(text, day)
        yield from make_memories(_DATED.sub("", listed), moment)
    if message.get("recipient") == "bio":
        parts = content.get("parts")
        text = join_texts(parts) if isinstance(parts, list) else read_text(content.get("text"))
        yield from make_memories(text, moment)


def _read_instructions(value: object) -> str:
    """What the user wrote, out of the frame that ChatGPT puts around it."""
    text = read_text(value)
    framed = re.search(r"```(.*?)```", text, re.DOTALL)
    return framed[1] if framed else text


def _parse_object(text: object) -> Json:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}
