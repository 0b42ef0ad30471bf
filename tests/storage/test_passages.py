"""Passages: what a message is cut into."""

import pytest

from staffstream.storage.passages import PASSAGE_CHARACTERS, PASSAGE_TOKENS, split_passages
from staffstream.support.tokens import count_tokens


@pytest.mark.parametrize(
    "text",
    [
        "One sentence after another, all about the sea. " * 2000,
        "x" * 50_000,
        "เมื่อวานฉันไปตลาดกับน้องสาวและซื้อผลไม้มากมาย" * 100,
        "昨日は妹と市場へ行きました。たくさん果物を買いました。" * 200,
        "😀" * 5000,
        "word\n\n" * 3000,
    ],
)
def test_every_passage_fits_and_nothing_is_lost(text: str) -> None:
    """However long the message: none is over the limits, the last one too, and all characters are there in order."""
    passages = split_passages(text)
    assert max(map(len, passages)) <= PASSAGE_CHARACTERS
    assert max(map(count_tokens, passages)) <= PASSAGE_TOKENS + 1
    assert "".join("".join(passages).split()) == "".join(text.split())


def test_a_passage_ends_with_a_sentence() -> None:
    """Also where no blank follows a full stop."""
    assert all(passage.endswith("。") for passage in split_passages("昨日は妹と市場へ行きました。" * 300))
    assert all(passage.endswith(".") for passage in split_passages("The sea was calm that day. " * 300))


@pytest.mark.parametrize("blank", ["", " \n\t "])
def test_a_blank_text_has_no_passage(blank: str) -> None:
    """There is nothing to find in it."""
    assert split_passages(blank) == []
