"""Ids, times and text: what everything else relies on."""

import re
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffstream import domain
from staffstream.domain import clean_text, format_time, make_id, now_text, parse_time

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC))


def test_ids_are_uuid_version_7_of_now() -> None:
    """RFC 9562: version, variant, and the milliseconds in front."""
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(make_id())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_grow_even_when_made_at_once() -> None:
    """Sorting by id is sorting by time of making."""
    ids = [make_id() for _ in range(20_000)]
    assert ids == sorted(set(ids))


def test_ids_grow_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An NTP step must not turn the order of messages round."""
    first = make_id()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert make_id() > first


def test_ids_of_many_threads_are_unique() -> None:
    """Database threads make them too."""
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend([make_id() for _ in range(2000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


def test_times_have_milliseconds_and_z() -> None:
    """As in the contract."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", now_text())
    assert (
        format_time(datetime(2026, 11, 23, 9, 0, 0, 1999, timezone(timedelta(hours=1)))) == "2026-11-23T08:00:00.001Z"
    )


@given(st.lists(MOMENTS, max_size=6))
def test_sorting_times_as_text_is_sorting_them(moments: list[datetime]) -> None:
    """SQL compares them as text."""
    texts = [format_time(moment) for moment in moments]
    assert sorted(texts) == [format_time(moment) for moment in sorted(moments)]


@given(MOMENTS)
def test_a_written_time_reads_back(moment: datetime) -> None:
    """To the millisecond."""
    assert parse_time(format_time(moment)) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_a_time_without_an_offset_is_utc() -> None:
    """Rather than the server's own zone."""
    assert parse_time("2026-11-23T08:00:00") == datetime(2026, 11, 23, 8, tzinfo=UTC)


@given(st.text(st.characters(exclude_categories=())))
def test_clean_text_is_unicode(text: str) -> None:
    """Lone surrogates become U+FFFD one for one; everything else stays."""
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text)
    assert all(a == b or "\ud800" <= b <= "\udfff" for a, b in zip(cleaned, text, strict=True))


def test_terminal_states_are_the_three() -> None:
    """What `ended` means."""
    assert sorted(domain.TERMINAL_STATES) == ["cancelled", "done", "failed"]


def test_early_years_have_four_digits() -> None:
    """As RFC 3339 wants it, and as sorting by text needs it."""
    assert format_time(parse_time("0596-05-29T04:54:47Z")) == "0596-05-29T04:54:47.000Z"
