"""Messages over HTTP: asking by either mode, what is kept, looking back, and the edges of the surface."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from staffstream.replies.context import UNKNOWN_RATIO, weigh_question
from staffstream.support.tokens import count_tokens
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import USAGE, Reply, http_error
from tests.tools.server import Api, read_problem, serve_here

pytestmark = pytest.mark.anyio

SAID = "Hello from the provider."
UNKNOWN = "019a0000-0000-7000-8000-000000000000"


# ── asking, and hearing at once ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_reply_comes_token_by_token(api: Api, ada: str) -> None:
    """Each of Claude's pieces is a frame of its own; the end names the saved message, its reason and usage."""
    received = await api.ask(ada, "Hi")
    assert received.tokens == ["Hello", " from", " the", " prov", "ider", "."]
    assert received.end["type"] == "done"
    assert received.end["stop_reason"] == "end_turn"
    assert received.end["usage"] == USAGE
    assert [frame.id for frame in received.frames[:2]] == [f"{received.run_id}:5", f"{received.run_id}:10"]
    message = await api.get(f"/staff/{ada}/messages/{received.end['message_id']}")
    assert (message["content"], message["status"]) == (SAID, "complete")


async def test_the_stream_has_the_headers_it_promises(api: Api, ada: str) -> None:
    """The four of the guide, and the ids."""
    received = await api.ask(ada, "Hi")
    assert received.headers["content-type"] == "text/event-stream"
    assert received.headers["cache-control"] == "no-cache"
    assert received.headers["connection"] == "keep-alive"
    assert received.headers["x-accel-buffering"] == "no"
    run = await api.run(ada, received.headers["x-run-id"])
    assert run["user_message_id"] == received.headers["x-user-message-id"]
    assert run["conversation_id"] == received.headers["x-conversation-id"]
    assert run["id"] == run["message_id"] == received.end["message_id"]


async def test_no_token_waits_for_the_next(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Each is with the subscriber before Claude has said more; the question is in the list before the first."""
    gate = provider.hold(["one", " two", " three"])
    async with api.stream(ada, "Count") as stream_reader:
        assert await api.said(ada) == ["Count"]
        for token in ("one", " two", " three"):
            gate.release(1)
            assert await stream_reader.token() == token
        assert await api.said(ada) == ["Count"], "a reply is listed once it is finished"
        gate.open()
        await stream_reader.rest()
    assert await api.said(ada) == ["Count", "one two three"]


async def test_the_done_frame_comes_after_the_commit(api: Api, ada: str) -> None:
    """Whoever reads done finds the message, at once, by every way."""
    for number in range(20):
        async with api.stream(ada, f"Question {number}") as stream_reader:
            while not (frame := await stream_reader.next()) or frame.type != "done":
                pass
            latest = (await api.messages(ada))[0]
            assert latest["id"] == frame.data["message_id"]
            assert (await api.run(ada, stream_reader.run_id))["state"] == "done"
            await stream_reader.rest()


async def test_claude_is_sent_what_the_staff_member_is(api: Api, provider: ScriptedProvider) -> None:
    """Model, output limit, persona; and the conversation so far."""
    ada = await api.make_staff("Ada", persona="You love rain.", model="claude-x", max_output_tokens=77)
    await api.ask(ada, "Hi")
    await api.ask(ada, "And now?")
    body = provider.chats[-1].body
    assert (body["model"], body["max_tokens"], body["stream"]) == ("claude-x", 77, True)
    assert "You love rain." in body["system"][0]["text"]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"][0]["text"] == SAID
    assert provider.refusals == []


async def test_a_failure_before_the_stream_is_a_status(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """A problem document with the ids of what was saved: the question stays, and there is no reply."""
    provider.script(http_error(400, "invalid_request_error"))
    received = await api.ask(ada, "Hi")
    assert (received.status, received.problem["code"]) == (502, "upstream_refused")
    assert received.problem["detail"] != "scripted"
    run = await api.run(ada, received.problem["run_id"])
    assert (run["state"], run["error"]["code"]) == ("failed", "upstream_refused")
    assert await api.said(ada) == ["Hi"]
    assert (await api.ask(ada, "Again")).text == SAID


# ── asking, and hearing later ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_asynchronous_door_answers_at_once(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """202 with the ids and where to look, before Claude has said anything; then the reply is in the list."""
    gate = provider.hold(["Later"])
    response = await api.http.post(f"/staff/{ada}/messages", json={"content": "Hi"})
    sent = response.json()
    assert response.status_code == 202
    assert sent.keys() == {"message_id", "run_id", "conversation_id", "status"}
    assert sent["status"] == "queued"
    assert response.headers["location"] == f"/api/v1/staff/{ada}/runs/{sent['run_id']}"
    assert (await api.messages(ada))[0]["id"] == sent["message_id"]
    run = await api.get(response.headers["location"].removeprefix("/api/v1"))
    assert run["state"] in ("queued", "building", "streaming")
    gate.open()
    run = await api.ended_run(ada, sent["run_id"])
    assert (run["state"], run["message_id"]) == ("done", sent["run_id"])
    latest = (await api.messages(ada))[0]
    assert (latest["message_type"], latest["content"], latest["reply_to"]) == ("assistant", "Later", sent["message_id"])


@pytest.mark.parametrize("url", ["ftp://example.com", "https://user@example.com", "example.com", "", 7])
async def test_a_wrong_webhook_is_refused(api: Api, ada: str, url: Any) -> None:
    """Nothing is queued."""
    problem = await api.send(ada, "Hi", 422, webhook_url=url)
    assert problem["errors"][0]["pointer"] == "/webhook_url"
    assert await api.messages(ada) == []


# ── what may be asked ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["messages", "messages/stream"])
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/content"),
        ({"content": ""}, "/content"),
        ({"content": " \n\t\u2003"}, "/content"),
        ({"content": 5}, "/content"),
        ({"content": None}, "/content"),
        ({"content": ["Hi"]}, "/content"),
        ({"content": "Hi", "contnet": "x"}, "/contnet"),
        ({"content": "Hi", "conversation_id": 5}, "/conversation_id"),
        ({"content": "Hi", "multitask_strategy": "both"}, "/multitask_strategy"),
        ("Hi", ""),
        (["Hi"], ""),
    ],
)
async def test_a_wrong_message_is_told_where(
    api: Api, ada: str, provider: ScriptedProvider, mode: str, body: Any, pointer: str
) -> None:
    """422 with a pointer; nothing is saved and Claude is not asked."""
    problem = await api.post(f"/staff/{ada}/{mode}", body, 422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert await api.messages(ada) == []
    assert provider.requests == []


async def test_an_unknown_conversation_is_404(api: Api, ada: str) -> None:
    """By both modes and in the list."""
    assert (await api.ask(ada, "Hi", conversation_id=UNKNOWN)).problem["code"] == "not_found"
    assert (await api.send(ada, "Hi", 404, conversation_id=UNKNOWN))["code"] == "not_found"
    assert (await api.get(f"/staff/{ada}/messages?conversation_id={UNKNOWN}", 404))["code"] == "not_found"


async def test_a_message_above_the_budget_is_refused_and_one_at_it_is_whole(
    api: Api, provider: ScriptedProvider
) -> None:
    """413 with nothing saved; the longest that fits reaches Claude uncut."""
    ada = await api.make_staff(context_budget_tokens=500)
    longest = next(n for n in range(1, 1000) if weigh_question(count_tokens("word " * (n + 1)), UNKNOWN_RATIO) > 500)
    for mode in ("messages", "messages/stream"):
        problem = await api.post(f"/staff/{ada}/{mode}", {"content": "word " * (longest + 1)}, 413)
        assert problem["code"] == "message_too_long"
    assert await api.messages(ada) == []
    assert (await api.ask(ada, "word " * longest)).text == SAID
    assert provider.chats[0].said == "word " * longest
    assert provider.refusals == []


async def test_a_long_message_within_a_large_budget_is_whole(api: Api, provider: ScriptedProvider) -> None:
    """Hundreds of kilobytes are data like any other."""
    ada = await api.make_staff(context_budget_tokens=1_000_000)
    content = "Wörter, 日本語 und 👩‍👩‍👧. " * 20_000
    assert (await api.ask(ada, content)).text == SAID
    assert provider.chats[0].said == content
    assert (await api.said(ada))[0] == content


# ── looking back ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_are_listed_newest_first(api: Api, ada: str) -> None:
    """An array; the first is the latest reply, which says what it answers and by which model."""
    await api.ask(ada, "One")
    received = await api.ask(ada, "Two")
    messages = await api.messages(ada)
    assert isinstance(messages, list)
    assert [message["content"] for message in messages] == [SAID, "Two", SAID, "One"]
    reply, question = messages[:2]
    assert reply["id"] == received.end["message_id"]
    assert reply["reply_to"] == question["id"] == received.headers["x-user-message-id"]
    assert reply["model"] == "claude-sonnet-5-5"
    assert (reply["stop_reason"], reply["usage"]) == ("end_turn", USAGE)
    required = {"id", "staff_id", "conversation_id", "message_type", "content", "status", "created_at"}
    assert question.keys() == required
    assert reply.keys() == required | {"reply_to", "model", "stop_reason", "usage"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", reply["created_at"])


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 200])
async def test_link_leads_through_all_pages(api: Api, ada: str, limit: int) -> None:
    """Every message once, in order; the last page has no link."""
    for number in range(4):
        await api.ask(ada, f"Question {number}")
    conversation_id = (await api.get(f"/staff/{ada}/conversations"))[0]["id"]
    seen: list[str] = []
    path: str | None = f"/api/v1/staff/{ada}/messages?limit={limit}&conversation_id={conversation_id}"
    while path:
        response = await api.http.get(api.url + path)
        assert 1 <= len(response.json()) <= limit
        seen += [message["id"] for message in response.json()]
        path = response.links.get("next", {}).get("url")
    assert seen == [message["id"] for message in await api.messages(ada)]
    assert len(set(seen)) == 8


async def test_a_page_stays_put_while_more_is_said(api: Api, ada: str) -> None:
    """`before` is a message, not a number of places."""
    await api.ask(ada, "One")
    first = (await api.messages(ada, limit=1))[0]
    await api.ask(ada, "Two")
    assert [m["content"] for m in await api.messages(ada, before=first["id"])] == ["One"]


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "201"}, {"limit": "ten"}, {"before": UNKNOWN}, {"before": "\0"}]
)
async def test_a_wrong_page_is_refused(api: Api, ada: str, query: dict[str, str]) -> None:
    """Rather than some other page."""
    await api.ask(ada, "One")
    assert await api.get(f"/staff/{ada}/messages", 422, params=query)


async def test_what_a_reply_was_built_from_is_kept(api: Api, ada: str) -> None:
    """Sections with tokens and items, and the model and budget; for a question there is none."""
    await api.ask(ada, "One")
    received = await api.ask(ada, "Two")
    record = await api.get(f"/staff/{ada}/messages/{received.end['message_id']}/context")
    names = [section["name"] for section in record["sections"]]
    assert names == ["persona", "summary", "recent_turns", "memories", "graph", "question"]
    assert 0 < record["total_tokens"] <= record["budget_tokens"] == 6000
    assert record["sections"][-1]["items"][0]["message_id"] == received.headers["x-user-message-id"]
    assert (await api.get(f"/staff/{ada}/messages/{received.headers['x-user-message-id']}/context", 404))["code"]


async def test_feedback_is_kept(api: Api, ada: str) -> None:
    """The last word counts, and the message shows it."""
    received = await api.ask(ada, "Hi")
    path = f"/staff/{ada}/messages/{received.end['message_id']}"
    await api.post(f"{path}/feedback", {"rating": -1, "comment": "Meh 😐"})
    assert (await api.get(path))["feedback"] == {"rating": -1, "comment": "Meh 😐"}
    await api.post(f"{path}/feedback", {"rating": 1})
    assert (await api.messages(ada))[0]["feedback"] == {"rating": 1, "comment": None}


@pytest.mark.parametrize("rating", [0, 2, "1", 1.5, None, True])
async def test_a_wrong_rating_is_refused(api: Api, ada: str, rating: Any) -> None:
    """1 or -1."""
    received = await api.ask(ada, "Hi")
    await api.post(f"/staff/{ada}/messages/{received.end['message_id']}/feedback", {"rating": rating}, 422)


async def test_feedback_is_for_replies(api: Api, ada: str) -> None:
    """Not for what one said oneself, nor for what is not there."""
    received = await api.ask(ada, "Hi")
    await api.post(f"/staff/{ada}/messages/{received.headers['x-user-message-id']}/feedback", {"rating": 1}, 400)
    await api.post(f"/staff/{ada}/messages/{UNKNOWN}/feedback", {"rating": 1}, 404)


# ── asking again ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("from_reply", [True, False])
async def test_regenerating_answers_the_same_question_anew(
    api: Api, ada: str, provider: ScriptedProvider, from_reply: bool
) -> None:
    """From the reply or from the question; Claude is not shown the answer that is to be replaced, and both are kept."""
    await api.ask(ada, "Zero")
    first = await api.ask(ada, "One")
    message_id = first.end["message_id"] if from_reply else first.headers["x-user-message-id"]
    provider.script(Reply(["Better."]))
    async with api.open("POST", f"/staff/{ada}/messages/{message_id}/regenerate") as stream_reader:
        again = await stream_reader.rest()
    assert again.text == "Better."
    assert again.headers["x-user-message-id"] == first.headers["x-user-message-id"]
    assert provider.chats[-1].body["messages"] == provider.chats[-2].body["messages"]
    assert await api.said(ada) == ["Zero", SAID, "One", SAID, "Better."]
    await api.ask(ada, "Two")
    answers = [m["content"][-1]["text"] for m in provider.chats[-1].body["messages"] if m["role"] == "assistant"]
    assert answers == [SAID, "Better."]
    assert provider.refusals == []


async def test_http_2_without_lengths(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Streams come token by token over HTTP/2 too, and a body is read there though no header announces it."""
    first = await api.ask(ada, "One")

    async def body() -> AsyncIterator[bytes]:
        yield b'{"multitask_strategy":"interrupt"}'

    provider.hold(["x"])
    async with (
        api.stream(ada, "Two") as in_the_way,
        httpx.AsyncClient(base_url=f"{api.url}/api/v1", http1=False, http2=True, trust_env=False) as client,
    ):
        await provider.arrived(2)
        path = f"/staff/{ada}/messages/{first.end['message_id']}/regenerate"
        gate = provider.hold(["Better", " still"])
        async with Api(api.url, client).open("POST", path, content=body()) as stream_reader:
            for token in ("Better", " still"):
                gate.release(1)
                assert await stream_reader.token() == token
            gate.open()
            assert (await stream_reader.rest()).end["type"] == "done"
        assert stream_reader.response.http_version == "HTTP/2"
        assert "connection" not in stream_reader.response.headers
        assert (await in_the_way.rest()).end["cancelled"]


async def test_an_old_answer_is_made_anew_from_what_came_before(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """And stays in its place."""
    first = await api.ask(ada, "One")
    await api.ask(ada, "Two")
    provider.script(Reply(["Better."]))
    async with api.open("POST", f"/staff/{ada}/messages/{first.end['message_id']}/regenerate") as stream_reader:
        await stream_reader.rest()
    assert "Two" not in str(provider.chats[-1].body["messages"])
    assert await api.said(ada) == ["One", SAID, "Better.", "Two", SAID]


async def test_what_cannot_be_asked_again_is_refused(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """An answer to nothing, something unknown, and while a reply is being made."""
    past = [{"message_type": "assistant", "content": "Welcome", "created_at": "2025-01-01T00:00:00Z"}]
    made = await api.post(f"/staff/{ada}/conversations", {"messages": past}, 201)
    assert (await api.post(f"/staff/{ada}/messages/{made['message_ids'][0]}/regenerate", None, 409))[
        "code"
    ] == "conflict"
    assert (await api.post(f"/staff/{ada}/messages/{UNKNOWN}/regenerate", None, 404))["code"] == "not_found"
    first = await api.ask(ada, "One")
    gate = provider.hold(["x"])
    async with api.stream(ada, "Two") as stream_reader:
        problem = await api.post(f"/staff/{ada}/messages/{first.end['message_id']}/regenerate", None, 409)
        assert (problem["code"], problem["run_id"]) == ("conversation_busy", stream_reader.run_id)
        gate.open()
        await stream_reader.rest()


# ── the edges of the surface ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api/v1/staff/", "/api/v1/staff/x/y", "/api/v2/staff", "/%00", "/ü"]
)
async def test_an_unknown_path_is_a_problem(api: Api, path: str) -> None:
    """JSON with a code, never a page of the framework's; `/` may be the chat page."""
    response = await api.http.get(api.url + path)
    if path == "/" and response.status_code == 200:
        return
    assert (response.status_code, read_problem(response)["code"]) == (404, "not_found")


async def test_a_wrong_method_names_the_right_ones(api: Api, ada: str) -> None:
    """All of them, whichever route takes each."""
    response = await api.http.put(f"/staff/{ada}", json={})
    assert (response.status_code, read_problem(response)["code"]) == (405, "method_not_allowed")
    assert {"GET", "PATCH", "DELETE"} <= set(response.headers["allow"].split(", "))


async def test_a_request_id_is_given_or_kept(api: Api) -> None:
    """One that could not stand in a header or a log is replaced."""
    given = await api.http.get("/staff", headers={"X-Request-Id": "abc-1.2:3_4"})
    assert given.headers["x-request-id"] == "abc-1.2:3_4"
    made = [
        (await api.http.get("/staff", headers={"X-Request-Id": value})).headers["x-request-id"]
        for value in ("a b", "x" * 200, "<script>", "")
    ]
    assert len(set(made)) == 4
    assert all(re.fullmatch(r"[0-9a-f-]{36}", value) for value in made)


async def test_health_is_open_and_ready_says_what_it_checked(api: Api) -> None:
    """For a load balancer."""
    assert (await api.http.get(f"{api.url}/healthz")).json() == {"status": "ok"}
    ready = await api.http.get(f"{api.url}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert ready.json()["checks"]["database"] == "ok"


@pytest.mark.logs_errors
async def test_a_bug_is_a_plain_500(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No exception text, path or key reaches the client; the request id does."""

    def fail(*args: object) -> None:
        raise RuntimeError("secret at /etc/passwd")

    async with serve_here(db) as api:
        monkeypatch.setattr("staffstream.storage.staff.list_staff", fail)
        response = await api.http.get("/staff")
    assert (response.status_code, read_problem(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "passwd" not in response.text
    assert "RuntimeError" not in response.text
