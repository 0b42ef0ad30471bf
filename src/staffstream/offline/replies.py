"""What the stand-in says."""

import re
from collections.abc import Mapping
from typing import Any

from staffstream.offline.wire import Answer
from staffstream.tokens import count_tokens

NOTICE = "I am the offline stand-in, not Claude: I can only repeat what I was told."


def write_answer(prompt: Mapping[str, Any], message_id: str) -> Answer:
    """The reply to a request that `refuse` let through."""
    last = prompt["messages"][-1]["content"]
    said = last if isinstance(last, str) else last[-1].get("text", "")
    pieces = split_pieces(f"{NOTICE} You said: “{said}”")
    stop_reason = "end_turn" if len(pieces) <= prompt["max_tokens"] else "max_tokens"
    usage = {
        "input_tokens": count_tokens(str(prompt["messages"])),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": min(len(pieces), prompt["max_tokens"]),
    }
    return Answer(message_id, pieces[: prompt["max_tokens"]], usage, stop_reason)


def split_pieces(text: str) -> list[str]:
    """The text as the pieces it is streamed in: a word each, long ones cut."""
    return re.findall(r"\s*\S{1,16}|\s+", text)
