"""What learning from past conversations would take, told before anything is asked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from staffstream.memory.extraction import (
    BATCH_TOKENS,
    INSTRUCTIONS,
    KNOWN_FACTS,
    KNOWN_TOKENS,
    MAX_MESSAGES,
    REPLY_TOKENS,
    SCHEMA,
)
from staffstream.storage.messages import ImportedMessage
from staffstream.support.tokens import count_tokens

_MESSAGE_TAG_TOKENS = 30  # the tag around one message
_CLAUDES_COUNT = 1.2  # newer models count more tokens than our vocabulary


@dataclass(frozen=True, slots=True)
class LearningEstimate:
    """What learning from past conversations would take, by our count of tokens raised to Claude's."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "LearningEstimate") -> "LearningEstimate":
        return LearningEstimate(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


def estimate_learning(messages: Sequence[ImportedMessage]) -> LearningEstimate:
    """What extraction from one conversation would take. Known facts count with their most, and an answer as a
    fifth of the text that it is about.
    """
    tokens = sum(_count_read(message) for message in messages)
    calls = max(-(-tokens // BATCH_TOKENS), -(-len(messages) // MAX_MESSAGES))
    fixed = count_tokens(INSTRUCTIONS) + count_tokens(json.dumps(SCHEMA)) + KNOWN_FACTS * KNOWN_TOKENS
    read = int((tokens + len(messages) * _MESSAGE_TAG_TOKENS + calls * fixed) * _CLAUDES_COUNT)
    return LearningEstimate(calls, read, int(tokens * _CLAUDES_COUNT) // 5)


def _count_read(message: ImportedMessage) -> int:
    tokens = count_tokens(message.content)
    return tokens if message.message_type == "user" else min(tokens, REPLY_TOKENS)
