"""Counting and cutting text by tokens."""

import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from staffstream.support.tokens import count_tokens, trim_to_tokens, warm_up

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_known_counts() -> None:
    """A few texts whose counts anyone can check with the published vocabulary."""
    assert count_tokens("") == 0
    assert count_tokens("Hello") == 1
    assert count_tokens("Hello, can you help me with this project?") == 10


def test_special_tokens_are_plain_text() -> None:
    """What a user types is data, also when it looks like a marker of the vocabulary."""
    assert count_tokens("<EOT>") > 1
    assert count_tokens("<|endoftext|>") > 1
    assert trim_to_tokens("<EOT> <META_START>", 100) == "<EOT> <META_START>"


@pytest.mark.parametrize("text", [" " * 1_000_000, "a" * 1_000_000, "\u0301" * 300_000, "😀" * 100_000])
def test_long_runs_of_one_character_are_counted(text: str) -> None:
    """They overflow the tokenizer's regex engine if they are given to it whole."""
    assert 0 < count_tokens(text) <= len(text.encode())
    assert count_tokens(trim_to_tokens(text, 1000)) <= 1000


@given(TEXT, st.integers(-2, 40))
def test_trimming_keeps_a_beginning_within_the_limit(text: str, limit: int) -> None:
    """The result is a beginning of the text, counts no more than asked, and is all of it when that fits."""
    kept = trim_to_tokens(text, limit)
    assert text.startswith(kept)
    assert count_tokens(kept) <= max(limit, 0)
    if count_tokens(text) <= limit:
        assert kept == text


@given(TEXT, TEXT)
@example("NaN", "NaN")
def test_two_lines_count_no_less_apart_than_together(first: str, second: str) -> None:
    """A budget adds up lines, each with one for its end: the whole counts no more."""
    assert count_tokens(f"{first}\n{second}") <= count_tokens(first) + 1 + count_tokens(second) + 1


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary is in the package."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    warm_up()
    assert count_tokens("Bergen is rainy.") > 2
