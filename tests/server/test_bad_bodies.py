"""Bodies that are wrong, huge, slow, cut or hostile: a 4xx with words, never a 5xx, and nothing is left of them."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffstream.api import request_body
from staffstream.api.json_body import count_values
from staffstream.domain import make_id
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import Api, make_keys, read_problem, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

MODES = ["messages", "messages/stream"]


async def _post(api: Api, ada: str, content: Any, mode: str = "messages/stream", **headers: str) -> tuple[int, str]:
    """Status and code ('' if there is none) of a raw body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await api.http.post(f"/staff/{ada}/{mode}", content=content, headers=named)
    return response.status_code, read_problem(response)["code"] if response.status_code >= 400 else ""


async def _is_untouched(api: Api, ada: str, provider: ScriptedProvider) -> bool:
    """Nothing was saved, Claude was not asked, and the server answers on."""
    assert await api.messages(ada) == []
    assert provider.requests == []
    return (await api.ask(ada, "Still there?")).end["type"] == "done"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"Hi", b"{", b'{"content": "Hi"', b'{"content": "Hi"}}', b"{'content': 'Hi'}", b'{"content": Hi}',
        b'{"content": "Hi",}', b"content=Hi", b"\xff\xfe", b"\x00", b'{"content": NaN}', b'{"content": Infinity}',
        b'{"content": "\\x41"}', b'{"content": "\\u12"}', b"// comment\n{}",
    ],
)  # fmt: skip
async def test_what_is_no_json_is_400(api: Api, ada: str, provider: ScriptedProvider, mode: str, body: bytes) -> None:
    """By both modes."""
    assert await _post(api, ada, body, mode) == (400, "not_json")
    assert await _is_untouched(api, ada, provider)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", [b"null", b"true", b"7", b"1e5", b'"Hi"', b"[]", b"{}", b'[{"content": "Hi"}]'])
async def test_json_of_another_shape_is_422(
    api: Api, ada: str, provider: ScriptedProvider, mode: str, body: bytes
) -> None:
    """With where the mistake is."""
    assert await _post(api, ada, body, mode) == (422, "invalid")
    assert await _is_untouched(api, ada, provider)


@pytest.mark.parametrize("depth", [40, 255, 1000, 1024, 1025, 100_000, 400_000])
@pytest.mark.parametrize("shape", ["[{}]", '{{"a":{}}}', '{{"content":{}}}', '{{"content":"Hi","x":{}}}'])
async def test_deep_nesting_is_refused(api: Api, ada: str, provider: ScriptedProvider, depth: int, shape: str) -> None:
    """In the whole body or in one field: no recursion of ours, or of a library's, gives way."""
    inner = "[" * depth + "]" * depth
    status, _ = await _post(api, ada, shape.format(inner).encode())
    assert status in (400, 413, 422)
    assert await _is_untouched(api, ada, provider)


async def test_deep_objects_are_refused(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Like deep lists."""
    assert (await _post(api, ada, b'{"a":' * 50_000 + b"1" + b"}" * 50_000))[0] == 400
    assert await _is_untouched(api, ada, provider)


@pytest.mark.parametrize(
    "body",
    [
        b'{"content": ' + b"9" * 5000 + b"}",
        b'{"content": 1e99999}',
        b'{"content": -0.0}',
        b'{"content": {"$gt": ""}}',
        b'{"content": "Hi", "conversation_id": ["x"]}',
        b'{"content": "Hi", "conversation_id": "' + b"x" * 100_000 + b'"}',
        b'{"content": "Hi", "multitask_strategy": {"a": 1}}',
        json.dumps({"content": "Hi"} | {f"field{n}": n for n in range(20_000)}).encode(),
    ],
    ids=lambda body: body[:24].decode(),
)
async def test_wrong_types_are_refused(api: Api, ada: str, provider: ScriptedProvider, body: bytes) -> None:
    """Huge numbers, objects for text, thousands of unknown fields; the answer stays small."""
    response = await api.http.post(f"/staff/{ada}/messages/stream", content=body)
    assert response.status_code in (400, 413, 422)
    assert len(response.content) < 20_000
    assert await _is_untouched(api, ada, provider)


async def test_a_key_given_twice_is_no_harm(api: Api, ada: str) -> None:
    """The last one counts, as in every JSON library."""
    assert await _post(api, ada, b'{"content": "no", "content": "yes"}') == (200, "")
    assert (await api.said(ada))[0] == "yes"


async def test_null_is_refused_where_it_means_nothing(api: Api, ada: str) -> None:
    """In every PATCH, with the place of the mistake."""
    memory = (await api.post(f"/staff/{ada}/memories", {"text": "Kim lives in Bergen."}, 201))["id"]
    conversation = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
    fields = {
        f"/staff/{ada}": ("name", "role", "persona", "memory_enabled", "webhook_secret"),
        f"/staff/{ada}/memories/{memory}": ("text", "occurred_at", "pinned", "importance"),
        f"/staff/{ada}/conversations/{conversation}": ("title", "user_name"),
    }
    for path, names in fields.items():
        for name in names:
            answer = await api.http.patch(path, json={name: None})
            assert answer.status_code == 422, (path, name)
            assert [mistake["pointer"] for mistake in read_problem(answer)["errors"]] == [f"/{name}"]


async def test_a_before_that_is_not_of_the_list_has_one_answer(api: Api, ada: str) -> None:
    """In every list: 422, and the errors name it."""
    await api.ask(ada, "Hi")
    lists = ("conversations", "memories", "messages", "deliveries")
    for path in (*(f"/staff/{ada}/{name}" for name in lists), "/jobs"):
        for before in ("", "x", "019a0000-0000-7000-8000"):
            answer = await api.http.get(path, params={"before": before})
            assert answer.status_code == 422, (path, before)
            mistake = {"pointer": "/before", "detail": "must be the id of an entry of this list"}
            assert read_problem(answer)["errors"] == [mistake]
    for name in lists[:3]:  # the others go on from where an entry that is gone by now has stood
        answer = await api.http.get(f"/staff/{ada}/{name}", params={"before": make_id()})
        assert (answer.status_code, read_problem(answer)["code"]) == (422, "unknown_before")


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("memories", b"[" + b"1," * 400_000 + b"1]"),
        ("memories", b"[" + b"[]," * 1_000_000 + b"[]]"),
        ("memories", b"[" + b"{}," * 40_000 + b"{}]"),
        ("conversations", b'{"messages": [' + b"1," * 400_000 + b"1]}"),
        ("conversations", b'{"title": "x", ' + b",".join(b'"%d": 1' % n for n in range(200_000)) + b"}"),
    ],
)
async def test_many_mistakes_cost_little(api: Api, ada: str, path: str, body: bytes) -> None:
    """A body that is all mistakes must not hold up the server while each is described."""
    started = time.process_time()
    answer = await api.http.post(f"/staff/{ada}/{path}", content=body)
    assert answer.status_code in (413, 422)
    assert len(answer.content) < 20_000
    assert time.process_time() - started < 0.4


async def _in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


FIVE_MB = json.dumps({"content": "x" * 5 * 1024 * 1024}).encode()


@pytest.mark.parametrize("chunked", [False, True])
async def test_five_megabytes_are_too_large(api: Api, ada: str, provider: ScriptedProvider, chunked: bool) -> None:
    """With a length or in chunks without one; the client gets to read the answer, every time."""
    for _ in range(10):
        assert await _post(api, ada, _in_pieces(FIVE_MB) if chunked else FIVE_MB) == (413, "too_large")
    assert await _is_untouched(api, ada, provider)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"1", 0),
        (b"[1,2,3]", 3),
        (b'{"a": 1, "b": [2]}', 5),
        (b'["a,b", "\\", "["{,", ","]', 4),
        (b'["' + b"x" * 3_000_000 + b'", 1, "' + b"," * 3_000_000 + b'"]', 3),
    ],
    ids=["one", "list", "object", "escapes", "pieces"],
)
def test_values_are_counted_before_they_are_built(text: bytes, count: int) -> None:
    """By what separates them, outside of strings; over several pieces."""
    assert count_values(text) == count


async def test_large_bodies_do_not_hold_up_the_loop(api: Api, ada: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are parsed and checked in a thread."""
    threads: list[int] = []

    def parse(data: bytes) -> Any:
        threads.append(threading.get_ident())
        return json.loads(data)

    monkeypatch.setattr(request_body, "parse_json", parse)
    message = {"message_type": "user", "content": "x" * 100_000, "created_at": "2026-01-01T00:00:00Z"}
    await api.post(f"/staff/{ada}/conversations", {"messages": [message]}, 201)
    await api.post(f"/staff/{ada}/conversations", {}, 201)
    assert threads[0] != threading.get_ident() == threads[1]


async def test_unfinished_bodies_share_a_budget(db: Path, provider: ScriptedProvider) -> None:
    """What does not fit is 503 and free again when its client leaves; a message comes through all the time, and one
    key cannot take it all.
    """
    keys = make_keys(db, ada="admin", bob="member")
    async with serve_here(db, provider, auth="keys", max_bodies_bytes=1_000_000) as api:
        api.http.headers.update(keys["ada"])
        ada = await api.make_staff()
        body = json.dumps([{"text": "x" * 1000}] * 400).encode()
        budget, held = api.app.state.services.bodies, len(body) - 1 - request_body.FREE_BYTES

        async def fill(who: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            host, port = api.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            headers = (f"Authorization: {keys[who]['Authorization']}", f"Content-Length: {len(body)}")
            writer.write(_write_head(api, f"/staff/{ada}/memories", *headers) + body[:-1])
            await writer.drain()
            return reader, writer

        first = await fill("ada")
        await until(lambda: budget.taken_bytes == held)
        second = await fill("ada")  # together more than her half
        assert (await second[0].readline()).startswith(b"HTTP/1.1 503")
        others = [await fill("bob")]
        await until(lambda: budget.taken_bytes == 2 * held)
        assert (await api.ask(ada, "Hi")).end["type"] == "done"
        for _, writer in (first, second, *others):
            writer.close()
        await until(lambda: budget.taken_bytes == 0)
        assert len(await api.post(f"/staff/{ada}/memories", json.loads(body)[:300], 201)) == 300


async def test_one_message_has_a_size(api: Api, ada: str) -> None:
    """In an import too, where the body may be much larger: a message is saved and indexed in one piece."""
    message = {"message_type": "user", "content": "x" * 1_000_001, "created_at": "2026-01-01T00:00:00Z"}
    problem = await api.post(f"/staff/{ada}/conversations", {"messages": [message]}, 422)
    assert problem["errors"][0]["pointer"] == "/messages/0/content"


async def test_the_largest_body_is_taken(db: Any, provider: ScriptedProvider) -> None:
    """And one byte more is not."""
    async with serve_here(db, provider, max_body_bytes=2048, context_budget_tokens=100_000) as api:
        ada = await api.make_staff()
        empty = len(b'{"content":""}')
        for size, status in ((2048, 200), (2049, 413)):
            body = b'{"content":"%b"}' % (b"x" * (size - empty))
            assert (await _post(api, ada, body))[0] == status
            assert (await _post(api, ada, _in_pieces(body)))[0] == status


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "99999999999999999999999", "+5", "5, 6", "five"])
async def test_a_length_that_is_none_is_refused(api: Api, ada: str, length: str) -> None:
    """By whatever layer reads it first; the connection ends, the server does not."""
    head = _write_head(api, f"/staff/{ada}/messages", f"Content-Length: {length}")
    answer = await _exchange(api, head + b'{"content":"Hi"}')
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert (await api.ask(ada, "Still there?")).end["type"] == "done"


def _write_head(api: Api, path: str, *headers: str) -> bytes:
    """A request's head as a client writes it."""
    lines = [f"POST /api/v1{path} HTTP/1.1", f"Host: {api.url.removeprefix('http://')}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _exchange(api: Api, data: bytes, *, end: bool = False) -> bytes:
    """Everything that the server answers to these bytes until it closes the connection; `end` closes our side."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        if end:
            writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


# ── types ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "media_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "image/png",
        "json",
        "text/html",
    ],
)
async def test_a_body_that_says_it_is_something_else_is_415(
    api: Api, ada: str, provider: ScriptedProvider, mode: str, media_type: str
) -> None:
    """Whatever it is: a form from another site could not be told from a request of ours."""
    assert await _post(api, ada, b'{"content":"Hi"}', mode, Content_Type=media_type) == (415, "unsupported_media_type")
    assert await _is_untouched(api, ada, provider)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/ld+json",
        "text/plain;charset=UTF-8",
        "",
    ],
)
async def test_json_is_read_under_these_types(api: Api, ada: str, media_type: str) -> None:
    """fetch calls a string text/plain, and the guide's polling snippet does just that."""
    assert await _post(api, ada, b'{"content":"Hi"}', Content_Type=media_type) == (200, "")


async def test_json_is_read_without_a_type(api: Api, ada: str) -> None:
    """Absent is not something else."""
    body = b'{"content":"Hi"}'
    head = _write_head(api, f"/staff/{ada}/messages", "Connection: close", f"Content-Length: {len(body)}")
    assert (await _exchange(api, head + body)).startswith(b"HTTP/1.1 202")


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_408(db: Any, provider: ScriptedProvider, framing: str) -> None:
    """After body_timeout_s, and the connection is closed: nobody can hold places for ever."""
    async with serve_here(db, provider, body_timeout_s=0.2) as api:
        ada = await api.make_staff()
        answer = await _exchange(api, _write_head(api, f"/staff/{ada}/messages/stream", framing))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":"request_timeout"' in answer
        assert await _is_untouched(api, ada, provider)


async def test_a_body_that_drips_is_408_too(db: Any, provider: ScriptedProvider) -> None:
    """The time is for the whole body, not for each byte."""
    async with serve_here(db, provider, body_timeout_s=0.3) as api:
        ada = await api.make_staff()

        host, port = api.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_write_head(api, f"/staff/{ada}/messages/stream", "Content-Length: 100000"))
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
        async with asyncio.timeout(DEADLINE_S):
            while not answer.done():
                writer.write(b" ")
                await asyncio.sleep(0.02)
        writer.close()
        assert answer.result().startswith(b"HTTP/1.1 408")
        assert await _is_untouched(api, ada, provider)


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_cut_is_nothing(api: Api, ada: str, provider: ScriptedProvider, framing: str) -> None:
    """Half a message is not a message."""
    head = _write_head(api, f"/staff/{ada}/messages", framing)
    half = b'10\r\n{"content":"Half' if "chunked" in framing else b'{"content":"Half'
    answer = await _exchange(api, head + half, end=True)
    assert answer.startswith(b"HTTP/1.1 400")
    assert await _is_untouched(api, ada, provider)


async def test_bodies_where_none_belongs_are_no_harm(api: Api, ada: str) -> None:
    """On GET, DELETE and cancel."""
    received = await api.ask(ada, "Hi")
    for method, path in [
        ("GET", "/messages"),
        ("POST", f"/runs/{received.run_id}/cancel"),
        ("GET", f"/runs/{received.run_id}"),
    ]:
        response = await api.http.request(method, f"/staff/{ada}{path}", content=b"\xff{" * 1000)
        assert response.status_code == 200
    assert (await api.http.request("DELETE", f"/staff/{ada}", content=b"[")).status_code == 204


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────────

FIELDS = st.sampled_from(
    ["content", "conversation_id", "multitask_strategy", "webhook_url", "name", "role", "persona", "model", "title",
     "user_name", "messages", "message_type", "created_at", "rating", "comment", "context_budget_tokens",
     "memory_enabled", "webhook_secret", "text", "kind", "occurred_at"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["enqueue", "interrupt", "reject", "user", "assistant", "2025-01-01T00:00:00Z", "https://example.com"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
BODIES = VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
BARELY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@BARELY
@given(body=BODIES)
async def test_no_body_makes_a_server_error(api: Api, ada: str, body: bytes) -> None:
    """Of any call that reads one: below 500, and a problem document if it is refused."""
    received = "019a0000-0000-7000-8000-000000000000"
    for method, path in [
        ("POST", "/staff"),
        ("PATCH", f"/staff/{ada}"),
        ("POST", f"/staff/{ada}/messages"),
        ("POST", f"/staff/{ada}/messages/stream"),
        ("POST", f"/staff/{ada}/conversations"),
        ("PATCH", f"/staff/{ada}/conversations/{received}"),
        ("POST", f"/staff/{ada}/messages/{received}/feedback"),
        ("POST", f"/staff/{ada}/messages/{received}/regenerate"),
        ("POST", f"/staff/{ada}/memories"),
        ("POST", f"/staff/{ada}/context"),
    ]:
        response = await api.http.request(method, path, content=body)
        assert response.status_code < 500, (method, path, response.text)
        if response.status_code >= 400:
            read_problem(response)


@BARELY
@given(
    values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=4, max_size=4),
    key=st.lists(st.integers(33, 255).filter(lambda code: code != 127), min_size=1, max_size=300).map(bytes),
)
async def test_no_path_query_or_header_makes_a_server_error(api: Api, ada: str, values: list[str], key: bytes) -> None:
    """Ids, cursors, limits and keys of any kind."""
    part, cursor, limit, before = values
    quoted = quote(part, safe="")
    for path, query in [
        (f"/staff/{ada}/messages", {"limit": limit, "before": before}),
        (f"/staff/{ada}/messages", {"conversation_id": part}),
        (f"/staff/{ada}/runs/{quoted}/stream", {"after": cursor}),
        (f"/staff/{ada}/memories", {"query": part, "limit": limit}),
        (f"/staff/{ada}/graph", {"entity": part, "depth": limit}),
    ]:
        response = await api.http.get(path, params=query)
        assert response.status_code < 500, (path, query, response.text)
    headers = [(b"Idempotency-Key", key), (b"Last-Event-ID", key)]
    response = await api.http.post(f"/staff/{ada}/messages", json={"content": "Hi"}, headers=headers)  # type: ignore[arg-type]
    assert response.status_code < 500
