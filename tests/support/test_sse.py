"""Events to bytes, whatever they hold."""

import json

from staffstream.support import sse
from tests.tools.frames import read_frame


def test_a_ping_is_a_comment() -> None:
    """A line that starts with a colon is skipped by every client."""
    assert read_frame(sse.PING[:-2]).comment == "ping"


def test_lone_surrogates_are_replaced_wherever_they_are() -> None:
    """In nested values and in keys."""
    value = {"a\ud800": ["\udfff", {"b": ("x\ud83d", 1)}], "fine": "😀"}
    assert json.loads(sse.encode_json(value)) == {"a\ufffd": ["\ufffd", {"b": ["x\ufffd", 1]}], "fine": "😀"}
