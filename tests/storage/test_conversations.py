"""Conversations over HTTP: made, imported, listed in pages, kept apart."""

from typing import Any

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, name_user, serve_here

pytestmark = pytest.mark.anyio


def _past(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"message_type": kind, "content": text, "created_at": f"2025-01-01T10:00:{number:02d}Z"}
        for number, (kind, text) in enumerate(turns)
    ]


async def test_the_default_conversation_is_made_by_the_first_message(api: Api, ada: str) -> None:
    """There is none before, and one after, however much is said."""
    assert await api.get(f"/staff/{ada}/conversations") == []
    assert await api.messages(ada) == []
    await api.ask(ada, "Hi")
    await api.ask(ada, "Hi again")
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    assert conversation["is_default"] is True
    assert len(await api.messages(ada)) == 4


async def test_conversations_do_not_hear_each_other(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Neither in the list of messages nor in what Claude is sent."""
    other = await api.post(f"/staff/{ada}/conversations", {"title": "Boats", "user_name": "Kim"}, 201)
    assert (other["title"], other["user_name"], other["message_ids"]) == ("Boats", "Kim", [])
    await api.patch(f"/staff/{ada}", {"memory_enabled": False})
    await api.ask(ada, "In the default one")
    await api.ask(ada, "In the other one", conversation_id=other["id"])
    assert await api.said(ada) == ["In the default one", "Hello from the provider."]
    assert await api.said(ada, conversation_id=other["id"]) == ["In the other one", "Hello from the provider."]
    assert "default" not in str(provider.chats[1].body["messages"])


async def test_one_is_shown_changed_and_erased(api: Api, ada: str) -> None:
    """Location leads to it; afterwards it is gone with its messages, and the default one is made anew."""
    response = await api.http.post(f"/staff/{ada}/conversations", json={})
    made = response.json()
    assert response.status_code == 201
    path = response.headers["location"].removeprefix("/api/v1")
    assert path == f"/staff/{ada}/conversations/{made['id']}"
    assert (await api.patch(path, {"title": "New"}))["title"] == "New"
    assert (await api.get(path))["title"] == "New"
    received = await api.ask(ada, "Hi", conversation_id=made["id"])
    await api.delete(path)
    assert (await api.get(path, 404))["code"] == "not_found"
    assert (await api.get(f"/staff/{ada}/runs/{received.run_id}", 404))["code"] == "not_found"
    assert (await api.get(f"/staff/{ada}/messages/{received.end['message_id']}", 404))["code"] == "not_found"
    assert (await api.ask(ada, "Hi", conversation_id=made["id"])).problem["code"] == "not_found"


async def test_erasing_ends_the_run_within(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Its reader gets one end."""
    gate = provider.hold(["one", "two"])
    async with api.stream(ada, "Hi") as stream_reader:
        gate.release(1)
        await stream_reader.until("one")
        await api.delete(f"/staff/{ada}/conversations/{stream_reader.response.headers['x-conversation-id']}")
        assert (await stream_reader.rest()).end
    await provider.left(1)
    assert (await api.ask(ada, "Hi")).end["type"] == "done"
    assert len(await api.messages(ada)) == 2


async def test_a_past_conversation_is_imported_in_order(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Ids in order, times as given, answers tied to their questions, and Claude is told of it."""
    past = _past(("assistant", "Welcome!"), ("user", "Hi"), ("user", "Anyone?"), ("assistant", "Yes."))
    made = await api.post(f"/staff/{ada}/conversations", {"title": "Old", "messages": past}, 201)
    found = list(reversed(await api.messages(ada, conversation_id=made["id"])))
    assert [message["id"] for message in found] == made["message_ids"]
    assert [(m["message_type"], m["content"]) for m in found] == [(p["message_type"], p["content"]) for p in past]
    assert [m["created_at"] for m in found] == [p["created_at"].replace("Z", ".000Z") for p in past]
    assert [m.get("reply_to") for m in found] == [None, None, None, made["message_ids"][2]]
    assert {m["status"] for m in found} == {"complete"}
    await api.ask(ada, "And now?", conversation_id=made["id"])
    assert provider.refusals == []
    sent = str(provider.chats[0].body["messages"])
    assert all(message["content"] in sent for message in past)


async def test_an_imported_conversation_may_hold_anything(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Empty answers, only answers, one side alone: what follows is still a prompt that Claude takes."""
    for past in (
        _past(("user", ""), ("assistant", "")),
        _past(("assistant", "a"), ("assistant", "b")),
        _past(("user", "a"), ("user", "b"), ("user", "\0")),
        _past(("assistant", " ")),
    ):
        made = await api.post(f"/staff/{ada}/conversations", {"messages": past}, 201)
        assert len(made["message_ids"]) == len(past)
        assert (await api.ask(ada, "Go on", conversation_id=made["id"])).end["type"] == "done"
    assert provider.refusals == []


async def test_five_thousand_messages_are_imported_and_no_more(api: Api, ada: str) -> None:
    """All of them can be read back in pages; one more is refused and nothing is made."""
    past = _past(*[("user", f"Question {n}") if n % 2 == 0 else ("assistant", f"Answer {n}") for n in range(5000)])
    for number, message in enumerate(past):
        message["created_at"] = f"2025-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    made = await api.post(f"/staff/{ada}/conversations", {"messages": past}, 201, timeout=60)
    assert len(set(made["message_ids"])) == 5000
    seen: list[str] = []
    query: dict[str, Any] = {"conversation_id": made["id"], "limit": 200}
    while page := await api.messages(ada, **query):
        seen += [message["id"] for message in page]
        query["before"] = seen[-1]
    assert seen == list(reversed(made["message_ids"]))
    problem = await api.post(f"/staff/{ada}/conversations", {"messages": [*past, past[0]]}, 422)
    assert problem["errors"][0]["pointer"] == "/messages"
    assert len(await api.get(f"/staff/{ada}/conversations")) == 1


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        ({"message_type": "system", "content": "x", "created_at": "2025-01-01T00:00:00Z"}, "/messages/0/message_type"),
        ({"message_type": "user", "content": 1, "created_at": "2025-01-01T00:00:00Z"}, "/messages/0/content"),
        ({"message_type": "user", "content": "x", "created_at": "yesterday"}, "/messages/0/created_at"),
        ({"message_type": "user", "content": "x", "created_at": 1700000000}, "/messages/0/created_at"),
        ({"message_type": "user", "content": "x", "created_at": "0001-01-01T00:00:00+23:00"}, "/messages/0/created_at"),
        ({"message_type": "user", "content": "x"}, "/messages/0/created_at"),
    ],
)
async def test_a_wrong_import_is_refused_whole(api: Api, ada: str, message: dict[str, Any], pointer: str) -> None:
    """With the place of the mistake; no conversation is made."""
    problem = await api.post(f"/staff/{ada}/conversations", {"messages": [message]}, 422)
    assert problem["errors"][0]["pointer"] == pointer
    assert await api.get(f"/staff/{ada}/conversations") == []


async def test_times_are_kept_in_utc(api: Api, ada: str) -> None:
    """Whatever offset they came with."""
    past = [{"message_type": "user", "content": "Hi", "created_at": "2025-06-01T01:30:00.1234+02:00"}]
    made = await api.post(f"/staff/{ada}/conversations", {"messages": past}, 201)
    (message,) = await api.messages(ada, conversation_id=made["id"])
    assert message["created_at"] == "2025-05-31T23:30:00.123Z"


async def test_the_list_is_paged_by_last_use(api: Api, ada: str) -> None:
    """Most recently used first; Link leads on until there is no more."""
    made = [(await api.post(f"/staff/{ada}/conversations", {"title": str(n)}, 201))["id"] for n in range(5)]
    await api.ask(ada, "Hi", conversation_id=made[0])
    expected = [made[0], *reversed(made[1:])]
    seen: list[str] = []
    path: str | None = f"/api/v1/staff/{ada}/conversations?limit=2"
    while path:
        response = await api.http.get(api.url + path)
        seen += [conversation["id"] for conversation in response.json()]
        path = response.links.get("next", {}).get("url")
    assert seen == expected


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=1.5", "limit=%20"])
async def test_a_wrong_page_is_refused(api: Api, ada: str, query: str) -> None:
    """422 rather than some other page."""
    assert (await api.get(f"/staff/{ada}/conversations?{query}", 422))["errors"][0]["pointer"] == "/limit"


async def test_users_do_not_see_each_other(db: Any, provider: ScriptedProvider) -> None:
    """What is someone else's is not there: conversations, messages, runs; by list, by id, and to change."""
    async with serve_here(db, provider, identify=name_user) as api:
        ada = await api.make_staff()
        received = await api.ask(ada, "I am Kim")
        conversation_id = received.headers["x-conversation-id"]
        api.http.headers["X-User"] = "eve"
        assert await api.get(f"/staff/{ada}/conversations") == []
        assert await api.messages(ada) == []
        for path in (
            f"/conversations/{conversation_id}",
            f"/messages?conversation_id={conversation_id}",
            f"/messages/{received.end['message_id']}",
            f"/messages/{received.end['message_id']}/context",
            f"/runs/{received.run_id}",
            f"/runs/{received.run_id}/stream",
        ):
            assert (await api.get(f"/staff/{ada}{path}", 404))["code"] == "not_found", path
        body = {"content": "Let me in", "conversation_id": conversation_id}
        for mode in ("/messages", "/messages/stream"):
            assert (await api.post(f"/staff/{ada}{mode}", body, 404))["code"] == "not_found"
        assert (await api.post(f"/staff/{ada}/runs/{received.run_id}/cancel", None, 404))["code"] == "not_found"
        for action in ("feedback", "regenerate"):
            path = f"/staff/{ada}/messages/{received.end['message_id']}/{action}"
            assert (await api.post(path, {"rating": 1} if action == "feedback" else {}, 404))["code"] == "not_found"
        path = f"/staff/{ada}/conversations/{conversation_id}"
        assert (await api.patch(path, {"title": "Mine"}, 404))["code"] == "not_found"
        assert (await api.http.delete(path)).status_code == 404
        assert (await api.ask(ada, "I am Eve")).end["type"] == "done"
        assert "Kim" not in str(provider.chats[-1].body)
        api.http.headers["X-User"] = "kim"
        assert await api.said(ada) == ["I am Kim", "Hello from the provider."]
