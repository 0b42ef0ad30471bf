"""Writes that wait for their transaction, and their outcomes: the same for every engine."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from staffstream.storage.database import Connection

log = logging.getLogger(__name__)

Outcome = tuple[Any, BaseException | None]
"""What a write returned, or the error that it ended in."""


@dataclass(slots=True)
class Write:
    """A function that is one transaction, what follows its commit, and who waits for it."""

    function: Callable[[Connection], Any]
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]


def report_outcome(write: Write, value: Any, error: BaseException | None) -> None:
    """Call what follows a write, and tell whoever waits for it."""
    if error is None and write.then:
        try:
            write.then(value)
        except Exception as bug:  # the writer has to go on
            log.exception("what follows a write failed")
            error = bug
    if write.future.done():  # its caller was cancelled; the write stands
        return
    if error is None:
        write.future.set_result(value)
    else:
        write.future.set_exception(error)
