"""The error tree: what its drawing says is what the classes are."""

import re

import pytest

from staffstream import errors
from staffstream.errors import SetupError, StaffstreamError

CONTRACT = {400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504}


def _walk(kind: type[StaffstreamError]) -> list[type[StaffstreamError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _walk(child))]


TREE = [kind for kind in _walk(StaffstreamError) if kind.__module__ == errors.__name__]
TOLD = [kind for kind in TREE if kind not in (StaffstreamError, errors.RunError, SetupError)]


def _read_drawing() -> dict[str, tuple[str, str, bool]]:
    line = re.compile(r"[│├└─ ]+(\w+) +(\d{3}) +(\w+) *(yes)?$", re.MULTILINE)
    return {name: (status, code, bool(yes)) for name, status, code, yes in line.findall(errors.__doc__ or "")}


def test_the_drawing_is_the_tree() -> None:
    """Every class is drawn with its status, code and whether to try again, and nothing else is."""
    assert _read_drawing() == {kind.__name__: (str(kind.status), kind.code, kind.retryable) for kind in TOLD}


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.__name__)
def test_an_error_can_be_told(kind: type[StaffstreamError]) -> None:
    """Each has a status of the contract, a title, and a sentence of ours in one line."""
    error = kind()
    assert error.status in CONTRACT
    assert error.title
    assert error.detail.endswith(".")
    assert "\n" not in error.detail
    assert kind.__doc__ is not None, "the sentence would be its parent's"


def test_codes_are_unique() -> None:
    """A client decides by the code."""
    codes = [kind.code for kind in TOLD]
    assert len(set(codes)) == len(codes)


def test_what_is_overload_or_time_may_be_tried_again() -> None:
    """408, 429, 503 and 504 are retryable; a mistake of the client's is not."""
    for kind in TOLD:
        if kind.status in (408, 429, 503, 504) and kind is not errors.StorageLost:  # until its operator acts
            assert kind.retryable, kind
        if kind.status in (400, 401, 403, 404, 405, 413, 415, 422):
            assert not kind.retryable, kind


def test_an_error_keeps_what_it_was_given() -> None:
    """A detail, a time to wait, extra fields and headers."""
    error = errors.Busy("Busy now.", retry_after_s=2.5, extra={"run_id": "r"}, headers={"Allow": "GET"})
    assert (str(error), error.retry_after_s, error.extra, error.headers) == (
        "Busy now.", 2.5, {"run_id": "r"}, {"Allow": "GET"},
    )  # fmt: skip
