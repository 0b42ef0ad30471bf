"""Every way in which Claude's stream can go wrong, over a real socket through the real SDK: one honest end, the text
that had arrived kept, and a conversation that goes on.
"""

from pathlib import Path
from typing import Any

import pytest

from staffstream.domain import clean_text
from tests.tools.frames import ReadStream
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import BROKEN, CASES, ODD, REFUSED_EARLY
from tests.tools.provider_script import PIECES
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

STATUS = {
    "upstream_refused": 502,
    "upstream_key_refused": 502,
    "upstream_broken": 502,
    "upstream_incomplete": 502,
    "upstream_malformed": 502,
    "upstream_rate_limited": 503,
    "upstream_overloaded": 503,
    "upstream_timeout": 504,
    "run_timeout": 504,
}
"""The HTTP status of a failure that is known before the response starts."""

CODES = {
    "http_400": "upstream_refused",
    "http_401": "upstream_key_refused",
    "http_403": "upstream_key_refused",
    "http_404": "upstream_refused",
    "http_413": "upstream_refused",
    "http_429": "upstream_rate_limited",
    "http_429_retry_after": "upstream_rate_limited",
    "http_429_retry_after_an_hour": "upstream_rate_limited",
    "http_500": "upstream_broken",
    "http_500_not_json": "upstream_broken",
    "http_502_html": "upstream_broken",
    "http_529": "upstream_overloaded",
    "redirect_302": "upstream_refused",
    "html_200": "upstream_malformed",
    "close_before_head": "upstream_broken",
    "reset_before_head": "upstream_broken",
    "not_http": "upstream_broken",
    "stall_before_head": "upstream_timeout",
    "stall_before_start": "upstream_timeout",
    "stall_with_pings_before_start": "upstream_timeout",
    "stall_before_text": "upstream_timeout",
    "stall_mid_stream": "upstream_timeout",
    "stall_with_pings": "upstream_timeout",
    "stall_before_stop": "upstream_timeout",
    "reset_before_start": "upstream_broken",
    "reset_mid_stream": "upstream_broken",
    "close_mid_stream": "upstream_broken",
    "close_mid_chunk": "upstream_broken",
    "close_mid_event": "upstream_broken",
    "bad_chunk_size": "upstream_timeout",
    "ends_before_start": "upstream_incomplete",
    "ends_before_text": "upstream_incomplete",
    "ends_mid_text": "upstream_incomplete",
    "ends_mid_event": "upstream_incomplete",
    "ends_before_stop": "upstream_incomplete",
    "overloaded_before_start": "upstream_overloaded",
    "overloaded_before_text": "upstream_overloaded",
    "overloaded_mid_stream": "upstream_overloaded",
    "api_error_mid_stream": "upstream_broken",
    "rate_limit_mid_stream": "upstream_rate_limited",
    "error_not_json": "upstream_malformed",
    "malformed_json": "upstream_malformed",
    "malformed_json_first": "upstream_malformed",
    "data_is_a_list": "upstream_malformed",
    "data_is_a_number": "upstream_malformed",
    "deeply_nested_data": "upstream_malformed",
    "invalid_utf8": "upstream_malformed",
    "gzip_broken": "upstream_broken",
    "never_ends": "run_timeout",
}


async def _meet(
    db: Path, provider: ScriptedProvider, name: str, mode: str = "stream"
) -> tuple[ReadStream, dict[str, Any], list[Any]]:
    """What the client received of one case, and the run and the messages that it left; then the conversation goes on.

    The limits are small only where the case is about them, so that a busy machine changes nothing about the others.
    """
    small = {"first_event_timeout_s": 0.5, "stream_timeout_s": 0.5, "run_timeout_s": 1.0} if CASES[name].stalls else {}
    provider.script(CASES[name].script)
    async with serve_here(db, provider, upstream_retries=0, **small) as api:
        ada = await api.make_staff()
        received = await api.ask(ada, "Hi")
        run_id = str(received.problem["run_id"] if received.problem else received.run_id)
        run, messages = await api.run(ada, run_id), await api.messages(ada)
        if not small:
            await _go_on(api, provider, ada)
    if small:
        async with serve_here(db, provider) as api:
            await _go_on(api, provider, ada)
    return received, run, messages


async def _go_on(api: Api, provider: ScriptedProvider, staff_id: str) -> None:
    """Whatever happened, the next question is answered, and Claude takes its history."""
    assert (await api.ask(staff_id, "And now?")).text == "".join(PIECES)
    assert provider.refusals == []


def test_every_fault_has_its_code() -> None:
    """A case that is added to the provider fails here until it is said what is to come of it."""
    assert CODES.keys() == {*REFUSED_EARLY, *BROKEN}


@pytest.mark.parametrize("name", [*REFUSED_EARLY, *BROKEN])
async def test_a_broken_reply_ends_once_and_honestly(db: Path, provider: ScriptedProvider, name: str) -> None:
    """One HTTP problem, or one error frame after the text; the run failed with the same code, its text is kept."""
    text = CASES[name].text
    received, run, messages = await _meet(db, provider, name)
    end = received.problem or received.end
    assert end["code"] == CODES[name]
    assert run["state"] == "failed"
    assert run["error"] == {key: end[key] for key in ("code", "detail", "retryable")}
    if received.problem:
        assert received.status == STATUS[end["code"]]
        assert text == ""
    else:
        assert end["type"] == "error"
        assert end["message_id"] == run["message_id"]
    if name == "never_ends":
        text = received.text
        assert text.startswith("OneOne")
    assert received.text == run["partial_text"] == text
    replies = [(m["content"], m["status"], m["id"]) for m in messages if m["message_type"] == "assistant"]
    assert replies == ([(text, "interrupted", run["id"])] if text else [])
    assert run["message_id"] == (run["id"] if text else None)


@pytest.mark.parametrize("name", REFUSED_EARLY)
async def test_what_fails_before_the_stream_is_a_status(db: Path, provider: ScriptedProvider, name: str) -> None:
    """A refusal known within the first second is a status with a problem, never a 200."""
    received, _, messages = await _meet(db, provider, name)
    assert received.status == STATUS[CODES[name]]
    assert [m["message_type"] for m in messages] == ["user"]


async def test_retry_after_is_passed_on(db: Path, provider: ScriptedProvider) -> None:
    """A client is told to wait as long as Claude asks us to."""
    received, _, _ = await _meet(db, provider, "http_429_retry_after_an_hour")
    assert received.headers["retry-after"] == "3600"


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_reply_is_done_or_failed(db: Path, provider: ScriptedProvider, name: str) -> None:
    """What can be read as a whole reply is done with its text and stop reason; either way it is one end."""
    case = CASES[name]
    received, run, messages = await _meet(db, provider, name)
    if case.ends is None and (received.problem or received.end["type"] == "error"):
        assert (received.problem or received.end)["code"].startswith("upstream_")
        assert run["state"] == "failed"
        return
    text = clean_text(case.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    assert received.end["type"] == "done"
    assert (received.end["message_id"], received.end["stop_reason"]) == (run["id"], case.stop_reason)
    assert run["state"] == "done"
    assert received.text == messages[0]["content"]
    if case.ends:
        assert received.text == text
    assert (messages[0]["id"], messages[0]["status"]) == (run["id"], "complete")


async def test_no_word_of_the_upstream_reaches_a_client(db: Path, provider: ScriptedProvider) -> None:
    """Details are ours: not the error's text, nor the provider's address, nor the key."""
    for name in ("http_400", "http_500_not_json", "not_http", "overloaded_mid_stream", "malformed_json"):
        received, run, _ = await _meet(db.with_name(name), provider, name)
        for told in (str(received.problem), str(received.frames), str(run["error"])):
            for secret in ("scripted", "exploded", "127.0.0.1", "sk-ant", "Traceback", "httpx", "aiohttp"):
                assert secret not in told
