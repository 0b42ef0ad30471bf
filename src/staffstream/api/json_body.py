"""JSON bodies as values: bounded before anything is built of them."""

import json
from typing import Any

import numpy as np
import orjson

from staffstream.domain import clean_text
from staffstream.errors import NotJson, TooLarge

MAX_VALUES = 50_000  # the largest import of a conversation has 20,000
_MAX_NESTING = 32
_MAX_MEMBERS = 1000  # of one object: each that is not known would be a mistake to describe
_MAX_REPAIRED_BYTES = 4 * 1024 * 1024  # repairing 30 MB holds everybody up for a second
_PIECE_BYTES = 1024 * 1024
_QUOTE, _SEPARATORS = ord('"'), tuple(b",:[{")


def parse_json(data: bytes) -> Any:
    """The JSON value with lone surrogates replaced. Raises NotJson; TooLarge for one of too many parts or levels, which
    would take 20 times its bytes as Python's objects, and as many mistakes to describe as it has parts.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if len(data) > MAX_VALUES and count_values(data) > 2 * MAX_VALUES:  # a colon stands beside each comma
        raise TooLarge("The body holds too many values.")
    value = _load(data)
    _check_size(value)
    return value


def count_values(data: bytes) -> int:
    """How many separators stand outside of the strings of a JSON text: at least as many as it has values, but one.

    Made of array operations, most of which run without the interpreter's lock: a scan of 32 MB holds nobody up.
    """
    count, is_inside = 0, False
    data = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")  # escapes, which stand in strings only
    for start in range(0, len(data), _PIECE_BYTES):
        piece = np.frombuffer(data, np.uint8, min(_PIECE_BYTES, len(data) - start), start)
        inside = np.logical_xor.accumulate(piece == _QUOTE) ^ is_inside
        is_inside = bool(inside[-1])
        outside = piece[~inside]
        count += sum(int(np.count_nonzero(outside == separator)) for separator in _SEPARATORS)
        if count > 2 * MAX_VALUES:
            break
    return count


def _load(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if len(data) > _MAX_REPAIRED_BYTES or (b"\\ud" not in data and b"\\uD" not in data):
            raise NotJson from error
    try:  # orjson refuses lone surrogates, which JavaScript's JSON.stringify may send as escapes
        return _clean(json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise NotJson from error


def _check_size(value: Any) -> None:
    level, seen = [value], 0
    for _ in range(_MAX_NESTING + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        seen += sum(map(len, containers))
        if seen > MAX_VALUES or any(isinstance(item, dict) and len(item) > _MAX_MEMBERS for item in containers):
            raise TooLarge("The body holds too many values.")
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise NotJson(f"The body is nested more than {_MAX_NESTING} levels deep.")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
