"""The log: one line per event, as text or as JSON, with the id of the request that caused it.

Our lines hold no text of a user or a model, no key and no secret. There is one exception, off by default: Claude's
message about a refused request, which may quote the request, goes to the logger `staffstream.text`. Libraries log from
`warning` on, whatever our own level is: some write whole requests at `debug`.
"""

import logging
import math
import re
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from staffstream.domain import format_time
from staffstream.support.sse import encode_json

request_id: ContextVar[str] = ContextVar("staffstream_request_id", default="")

text_log = logging.getLogger("staffstream.text")
text_log.setLevel(logging.CRITICAL)

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def set_up_logging(*, form: str, level: str, with_text: bool) -> None:
    """Send the log to stderr. For a server process only; a host app sets up its own logging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("staffstream").setLevel(level.upper())
    text_log.setLevel(logging.DEBUG if with_text else logging.CRITICAL)


def show_name(value: object) -> str:
    """The value if it is one word of ASCII letters, such as an API's error type; else "(no name)". A longer text from
    outside could quote a message, so it must not be logged.
    """
    return value if isinstance(value, str) and re.fullmatch(r"\w{1,64}", value, re.ASCII) else "(no name)"


class LogLimit:
    """Lets one line through in `every_s` seconds, for what anybody can cause as often as they like."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._logged_at = -math.inf
        self._count = 0

    def count(self) -> int | None:
        """Count one event. The number of them since the last line if it is time for the next, else None."""
        self._count += 1
        if time.monotonic() < self._logged_at + self._every_s:
            return None
        self._logged_at = time.monotonic()
        count, self._count = self._count, 0
        return count


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then `name=value` for each extra value."""

    def format(self, record: logging.LogRecord) -> str:
        values = "".join(f" {name}={value}" for name, value in _list_values(record))
        line = f"{_format_moment(record)} {record.levelname} {record.name}: {record.getMessage()}{values}"
        return "\n".join([line, self.formatException(record.exc_info)] if record.exc_info else [line])


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _format_moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= dict(_list_values(record))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return encode_json(line).decode()


def _format_moment(record: logging.LogRecord) -> str:
    return format_time(datetime.fromtimestamp(record.created, UTC))


def _list_values(record: logging.LogRecord) -> list[tuple[str, Any]]:
    """The values of `extra`, and the request's id."""
    values = [(name, value) for name, value in vars(record).items() if name not in _OWN_FIELDS and value is not None]
    known = request_id.get()
    return [*values, ("request_id", known)] if known and "request_id" not in dict(values) else values
