"""The log: a line a run, the request's id throughout, and nobody's words or secrets."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from staffstream.models.offline.wire import ProviderMessage, encode_event, start_message
from staffstream.support.logs import JsonFormatter, TextFormatter, request_id
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, STREAM_HEAD, Reply, Script, http_error, steps
from tests.tools.server import KEY, Api, make_keys, read_problem, serve_here, start_server

pytestmark = pytest.mark.anyio

CANARIES = {
    name: f"canary-{name}-7f3a9c"
    for name in ("question", "reply", "persona", "title", "comment", "memory", "upstream", "header", "body", "user")
}
WEBHOOK_SECRET = "whsec_Y2FuYXJ5LXdlYmhvb2stc2VjcmV0LTdmM2E5Yw=="


def find_canaries(text: str, *more: str) -> list[str]:
    """Which of the things that must not be told are in the text."""
    return [secret for secret in (*CANARIES.values(), WEBHOOK_SECRET, KEY, *more) if secret in text]


def list_broken_streams() -> list[Script]:
    """Streams that break in ways whose exceptions could quote them."""
    said = encode_event(start_message(ProviderMessage("msg_1", (), {"input_tokens": 1}, "end_turn")))
    word = CANARIES["upstream"].encode()
    error = b'event: error\ndata: {"type":"error","error":{"type":"%s","message":"%s"}}\n\n' % (word, word)
    ends = (error, b'data: {"%s\n\n' % word, b'data: "%s"\n\n' % word, b"data: %s\n\n" % word)
    return [steps(STREAM_HEAD, said, end) for end in ends]


async def stir(api: Api, provider: ScriptedProvider) -> None:
    """Send canaries everywhere that a client or Claude can put text, and make as much as possible fail."""
    words = CANARIES
    staff = await api.make_staff(persona=words["persona"], webhook_secret=WEBHOOK_SECRET)
    provider.script(Reply([words["reply"], " ", words["reply"]]))
    received = await api.ask(staff, words["question"])
    await api.post(f"/staff/{staff}/messages/{received.run_id}/feedback", {"rating": -1, "comment": words["comment"]})
    await api.post(f"/staff/{staff}/conversations", {"title": words["title"], "user_name": words["user"]}, 201)
    await api.post(f"/staff/{staff}/memories", {"text": words["memory"]}, 201)
    for fault in (
        http_error(400, words["upstream"], message=words["upstream"]),
        http_error(401, message=words["upstream"]),
        http_error(429, message=words["upstream"], headers={"retry-after": "9999"}),
        *list_broken_streams(),
    ):
        provider.script(fault)
        await api.ask(staff, words["question"])
    await api.http.post(f"/staff/{staff}/messages", content=f'{{"content": "{words["body"]}')
    await api.http.post(f"/staff/{staff}/messages", json={"content": 5, "more": words["body"]})
    await api.http.post(f"/staff/{staff}/messages", json={"content": words["body"], "conversation_id": words["body"]})
    await api.http.post("/staff", json={"name": "x", "webhook_url": f"ftp://{words['body']}/"})
    headers = {"Idempotency-Key": words["header"] * 40, "Last-Event-ID": words["header"]}
    await api.http.post(f"/staff/{staff}/messages", json={"content": words["question"]}, headers=headers)
    await api.http.get(f"/staff/{staff}/runs/{received.run_id}/stream", headers=headers)
    await api.http.get(f"/staff/{staff}", headers={"Authorization": f"Bearer {words['header']}"})


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_words_and_no_secrets_in_the_log(db: Path, provider: ScriptedProvider, form: str) -> None:
    """At the level `debug`, whatever failed, tracebacks included."""
    keys = make_keys(db, ada="admin")
    flags = ("--auth", "keys", "--log-level", "debug", "--log-format", form, "--upstream-retries", "0")
    async with start_server(db, provider, *flags) as server:
        server.api.http.headers.update(keys["ada"])
        await stir(server.api, provider)
        await server.stop()
        log = server.log
    assert log.count("reply ended") >= 5
    assert find_canaries(log, keys["ada"]["Authorization"].split()[1]) == []


async def test_no_words_in_the_log_of_an_embedding_app(
    db: Path, provider: ScriptedProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Which may set our loggers to `debug` as well."""
    caplog.set_level(logging.DEBUG, "staffstream")
    async with serve_here(db, provider, upstream_retries=0) as api:
        await stir(api, provider)
    own = "\n".join(
        TextFormatter().format(record) for record in caplog.records if record.name.startswith("staffstream")
    )
    assert "reply ended" in own
    assert find_canaries(own) == []


async def test_what_claude_says_of_a_refusal_is_logged_on_demand(db: Path, provider: ScriptedProvider) -> None:
    """An operator may need it; it has to be asked for."""
    async with start_server(db, provider, "--log-text") as server:
        provider.script(http_error(400, message=CANARIES["upstream"]))
        await server.api.ask(await server.api.make_staff(), "hello")
        await server.stop()
        assert CANARIES["upstream"] in server.log


async def test_no_words_of_claude_or_of_an_exception_in_an_answer(db: Path, provider: ScriptedProvider) -> None:
    """Problems and error frames are written by us."""
    async with serve_here(db, provider, upstream_retries=0) as api:
        staff = await api.make_staff(persona=CANARIES["persona"])
        for fault in (
            http_error(400, CANARIES["upstream"], message=CANARIES["upstream"]),
            http_error(500, message=CANARIES["upstream"]),
            *list_broken_streams(),
        ):
            provider.script(fault)
            received = await api.ask(staff, CANARIES["question"])
            assert (
                find_canaries(json.dumps(received.problem) + json.dumps([frame.data for frame in received.frames]))
                == []
            )


@pytest.mark.logs_errors
async def test_a_bug_is_logged_whole_and_told_by_its_request_id(
    api: Api, ada: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets an id; the log has the traceback under it."""

    def break_down(*_: object) -> None:
        raise ZeroDivisionError("the inner workings")

    monkeypatch.setattr(api.app.state.services.database, "read", break_down)
    answer = await api.http.get("/staff", headers={"X-Request-Id": "ticket-4711"})
    problem = read_problem(answer)
    assert (answer.status_code, problem["code"], problem["request_id"]) == (500, "internal_error", "ticket-4711")
    assert "inner workings" not in answer.text
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_line_a_run_with_the_id_of_its_request(db: Path, provider: ScriptedProvider) -> None:
    """From the request over the run to what went wrong in it."""
    async with start_server(db, provider, "--log-format", "json", "--upstream-retries", "0") as server:
        api = server.api
        staff = await api.make_staff()
        api.http.headers["X-Request-Id"] = "first-1"
        good = await api.ask(staff, "hello")
        provider.script(http_error(400))
        api.http.headers["X-Request-Id"] = "second-2"
        await api.ask(staff, "hello")
        await server.stop()
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    ended = [line for line in lines if line["message"] == "reply ended"]
    assert [(line["request_id"], line["state"], line.get("code")) for line in ended] == [
        ("first-1", "done", None),
        ("second-2", "failed", "upstream_refused"),
    ]
    assert ended[0]["run_id"] == good.run_id
    assert ended[0]["characters"] == len(good.text)
    assert ended[0]["output_tokens"] == good.end["usage"]["output_tokens"]
    assert 0 <= ended[0]["first_token_ms"] <= ended[0]["total_ms"]
    refusal = next(line for line in lines if line["logger"] == "staffstream.models.anthropic_sdk")
    assert refusal["request_id"] == "second-2"


async def test_lines_cannot_be_forged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """A line end in what a client sent begins no line of the log."""
    for path in ("/%0AERROR%20forged", "/staff/%0D%0Aforged", "/staff/x%E2%80%A8forged"):
        await api.http.get(path)
    answer = await api.http.get("/staff", headers={b"X-Request-Id": b"a b"})
    assert answer.headers["x-request-id"] != "a b"
    assert "forged" not in caplog.text


# ── the two forms ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def _in_a_request() -> Iterator[None]:
    token = request_id.set("r-1")
    yield
    request_id.reset(token)


def make_record(message: str, *args: Any, **values: Any) -> logging.LogRecord:
    return logging.getLogger("staffstream.test").makeRecord(
        "staffstream.test", logging.WARNING, "file.py", 1, message, args, None, extra=values
    )


@pytest.mark.usefixtures("_in_a_request")
def test_a_json_line_is_one_object() -> None:
    """With the values as they are and no line end in it, whatever they hold."""
    line = JsonFormatter().format(make_record("a %s", "b\nc\u2028d\ud800", run_id="x", code=None))
    assert len(line.splitlines()) == 1
    read = json.loads(line)
    assert read.pop("time").endswith("Z")
    assert read == {
        "level": "warning",
        "logger": "staffstream.test",
        "message": "a b\nc\u2028d�",
        "run_id": "x",
        "request_id": "r-1",
    }


@pytest.mark.usefixtures("_in_a_request")
def test_a_text_line_has_the_same_values() -> None:
    """For reading by eye."""
    line = TextFormatter().format(make_record("a %s", "b", run_id="x", code=None))
    assert line.endswith("Z WARNING staffstream.test: a b run_id=x request_id=r-1")


def test_a_traceback_stays_with_its_line() -> None:
    """In JSON as a value of it."""
    record = make_record("it broke")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        record.exc_info = sys.exc_info()
    assert "ZeroDivisionError" in json.loads(JsonFormatter().format(record))["traceback"]
    assert "ZeroDivisionError" in TextFormatter().format(record)


async def test_background_lines_have_no_request(db: Path, provider: ScriptedProvider) -> None:
    """What the server does by itself is nobody's request."""
    async with start_server(db, provider, "--log-format", "json", "--extract-every-messages", "2") as server:
        staff = await server.api.make_staff()
        provider.script_structured(http_error(400))
        await server.api.ask(staff, "I live in Bergen.")
        async with asyncio.timeout(DEADLINE_S):
            while "job extract" not in server.log:
                await asyncio.sleep(0.02)
        lines = [json.loads(line) for line in server.log.splitlines() if "job extract" in line]
    assert "request_id" not in lines[0]
