"""From a request to the message that answers it: the text, cut into tokens and to `max_tokens`, and its usage.

The prompt cache is simulated too: `usage` shows whether the beginning of a prompt stays the same.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from staffstream.models.offline.replies import write_text
from staffstream.models.offline.wire import ProviderMessage
from staffstream.support.tokens import count_tokens

Json = Mapping[str, Any]

MESSAGE_TOKENS = 4
"""Tokens that a message costs beside its text."""


class PromptCache:
    """The beginnings of prompts that were marked for caching; the `size` most recent ones."""

    def __init__(self, size: int = 1_000) -> None:
        self._size = size
        self._cached: OrderedDict[bytes, None] = OrderedDict()

    def price(self, prompt: Json) -> dict[str, int]:
        """The prompt's tokens as the API counts them: read from the cache, written to it, and the rest."""
        beginning = hashlib.sha256()
        total = read = written = 0
        for block, tokens, marked in _list_blocks(prompt):
            beginning.update(block)
            total += tokens
            if (digest := beginning.digest()) in self._cached:
                read = total
            if marked:
                written = total
                self._remember(digest)
        cached = max(read, written)
        return {
            "input_tokens": total - cached,
            "cache_creation_input_tokens": cached - read,
            "cache_read_input_tokens": read,
        }

    def _remember(self, digest: bytes) -> None:
        self._cached[digest] = None
        self._cached.move_to_end(digest)
        if len(self._cached) > self._size:
            self._cached.popitem(last=False)


def write_answer(prompt: Json, message_id: str, cache: PromptCache) -> ProviderMessage:
    """The message that answers a valid request."""
    pieces = split_pieces(write_text(prompt))
    kept = pieces[: prompt["max_tokens"]]
    stop_reason = "end_turn" if len(kept) == len(pieces) else "max_tokens"
    return ProviderMessage(message_id, kept, {**cache.price(prompt), "output_tokens": len(kept)}, stop_reason)


def split_pieces(text: str) -> list[str]:
    """The text as the pieces that are streamed: one word each, long words cut. A piece counts as a token."""
    return re.findall(r"\s*\S{1,16}|\s+", text)


def _list_blocks(prompt: Json) -> Iterator[tuple[bytes, int, bool]]:
    """For each block: the bytes that identify it, its tokens, and whether it is marked for caching."""
    parts = [("system", prompt["system"])] if "system" in prompt else []
    parts += [(message["role"], message["content"]) for message in prompt["messages"]]
    for number, (role, content) in enumerate(parts):
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for index, block in enumerate(blocks):
            shape = {key: value for key, value in block.items() if key != "cache_control"}
            text = block["text"] if block["type"] == "text" else json.dumps(shape)
            is_last = number == len(parts) - 1 and index == len(blocks) - 1
            marked = bool(block.get("cache_control") or (is_last and prompt.get("cache_control")))
            identity = json.dumps([role, index, shape], sort_keys=True).encode()
            yield identity, count_tokens(text) + (0 if index else MESSAGE_TOKENS), marked
