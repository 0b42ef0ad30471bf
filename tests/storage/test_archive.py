"""Export and import: a staff member with everything it holds."""

import asyncio
import contextlib
import json
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from staffstream.errors import SetupError
from staffstream.storage import archive, conversations, graph, learning_marks, memories, messages, staff
from staffstream.storage.database import Connection
from staffstream.storage.sqlite.backups import check_backup
from staffstream.storage.vectors import count_unembedded
from tests.tools.commands import run_command
from tests.tools.databases import connect, prepare, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import Api, make_keys, serve_here

pytestmark = pytest.mark.anyio

Lines = list[str]


def export_lines(db: Path, staff_id: str) -> Lines:
    with contextlib.closing(connect(db)) as connection:
        return list(archive.export_staff(connection, staff_id))


def connect_prepared(db: Path) -> Any:
    prepare(db)
    return connect(db)


def import_lines(db: Path, lines: Lines) -> str:
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        return archive.import_staff(connection, lines, None)[0].id


def count_rows(db: Path) -> int:
    with contextlib.closing(connect(db)) as connection:
        return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in archive._TABLES)


async def live_a_little(api: Api, provider: ScriptedProvider) -> str:
    """A staff member that holds something of everything."""
    ada = await api.make_staff(role="a pilot", webhook_secret="whsec_Y2FuYXJ5LXdlYmhvb2stc2VjcmV0LTdmM2E5Yw==")
    provider.script(Reply(["Bodø is fine in June.\u2028Line two 🛶"]), Reply(["Noted."]))
    received = await api.ask(ada, "My sister Marit sails to Bodø in June.")
    await api.post(f"/staff/{ada}/messages/{received.run_id}/feedback", {"rating": 1, "comment": "kind"})
    other = await api.post(f"/staff/{ada}/conversations", {"title": "Second", "user_name": "Kim"}, 201)
    await api.ask(ada, "I now live in Oslo.\x00 And 'quotes'; \"double\".", conversation_id=other["id"])
    told = await api.post(f"/staff/{ada}/memories", [{"text": f"Kim owns boat {n}."} for n in range(3)], 201)
    await api.http.delete(f"/staff/{ada}/memories/{told[0]['id']}")
    await api.http.patch(f"/staff/{ada}/memories/{told[1]['id']}", json={"text": "Kim owns a kayak."})
    await api.app.state.services.database.write(lambda tx: learn(tx, ada, told[2]["id"]))
    return ada


def learn(tx: Connection, ada: str, memory_id: str) -> None:
    """What background work would have left: a relation in the graph, a summary, and how far both have come."""
    (scope,) = staff.list_scopes(tx, ada)
    graph.restate_memory(
        tx, scope, memory_id=memory_id, subject="Kim", predicate="owns", object="boat 2",
        valid_from="2026-01-01T00:00:00.000Z", source_message_id=None,
    )  # fmt: skip
    conversation = conversations.find_default_conversation(tx, scope)
    assert conversation
    last = messages.list_messages(tx, scope, conversation.id, limit=1)[0]
    learning_marks.set_learned(tx, scope, conversation.id, last)
    conversations.set_summary(tx, scope, conversation.id, "They spoke of Bodø.", 1, model="m")


async def look_at(api: Api, ada: str) -> dict[str, Any]:
    """All that a client can see of it."""
    conversations = await api.get(f"/staff/{ada}/conversations")
    messages = [
        message
        for conversation in conversations
        for message in await api.messages(ada, conversation_id=conversation["id"], limit=200)
    ]
    replies = [message["id"] for message in messages if message["message_type"] == "assistant"]
    return {
        "staff": await api.get(f"/staff/{ada}"),
        "conversations": conversations,
        "messages": messages,
        "contexts": [await api.get(f"/staff/{ada}/messages/{reply}/context") for reply in replies],
        "runs": [await api.run(ada, reply) for reply in replies],
        "memories": await api.get(f"/staff/{ada}/memories", params={"limit": 200}),
        "deleted": await api.get(f"/staff/{ada}/memories", params={"deleted": "true"}),
        "graph": await api.get(f"/staff/{ada}/graph", params={"ended": "true"}),
    }


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_everything_comes_back(db: Path, tmp_path: Path, provider: ScriptedProvider) -> None:
    """On another server that has staff members, users and conversations of its own, and life goes on there."""
    async with serve_here(db, provider) as api:
        ada = await live_a_little(api, provider)
        before = await look_at(api, ada)
    lines = export_lines(db, ada)
    elsewhere = tmp_path / "elsewhere.db"
    async with serve_here(elsewhere, provider) as api:
        for name in ("Linus", "Grace"):
            await api.ask(await api.make_staff(name), "hello")
    assert import_lines(elsewhere, lines) == ada
    async with serve_here(elsewhere, provider) as api:
        assert await look_at(api, ada) == before
        found = await api.get(f"/staff/{ada}/memories", params={"query": "Who sails to Bodø?"})
        assert "Marit" in found[0]["text"]
        assert all("boat 0" not in memory["text"] for memory in found)
        await api.ask(ada, "And now?")
        await api.post(f"/staff/{ada}/memories", {"text": "Kim has a dog."}, 201)
        conversation = (await api.get(f"/staff/{ada}/conversations"))[-1]
        messages = await api.get(f"/staff/{ada}/messages", params={"conversation_id": conversation["id"]})
        repeated = [(each["message_type"], each["content"]) for each in reversed(messages)]
        shown = [{"role": role, "content": text} for role, text in [*repeated, ("user", "Go on.")]]
        body = {"model": ada, "messages": shown}
        answer = await api.http.post(f"{api.url}/v1/chat/completions", json=body)
        assert answer.headers["x-conversation-id"] == conversation["id"]
    check_backup(elsewhere)


async def test_an_export_holds_no_secret(db: Path, provider: ScriptedProvider) -> None:
    """No key of any kind; the webhook gets a new secret where it is imported."""
    key = make_keys(db, ada="admin")["ada"]["Authorization"].split()[1]
    async with serve_here(db, provider) as api:
        ada = await live_a_little(api, provider)
    text = "\n".join(export_lines(db, ada))
    for secret in (key, key[9:], "whsec_", "Y2FuYXJ5LXdlYmhvb2stc2VjcmV0", "webhook_secret", "sk-ant"):
        assert secret not in text


async def test_an_export_holds_one_staff_member_alone(db: Path, provider: ScriptedProvider) -> None:
    """Nothing of what another one was told."""
    async with serve_here(db, provider) as api:
        ada, grace = await live_a_little(api, provider), await api.make_staff("Grace")
        await api.ask(grace, "canary-elsewhere")
        await api.post(f"/staff/{grace}/memories", {"text": "canary-elsewhere"}, 201)
    assert "canary-elsewhere" not in "\n".join(export_lines(db, ada))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """The lines of a staff member that holds something of everything; made once, for they are only read."""
    db = tmp_path_factory.mktemp("exported") / "a.db"

    async def export() -> Lines:
        async with ScriptedProvider() as provider, serve_here(db, provider) as api:
            ada = await live_a_little(api, provider)
        return export_lines(db, ada)

    return asyncio.run(export())


def test_the_sample_holds_something_of_everything(exported: Lines) -> None:
    """Of every table there is, or its rows would be lost unnoticed."""
    assert {json.loads(line).get("table") for line in exported} == {None, *archive._TABLES}


def test_what_was_imported_exports_the_same(tmp_path: Path, exported: Lines) -> None:
    """But for the numbers that the database gives to scopes, and when it was."""
    target = tmp_path / "target.db"
    prepare(target)
    with contextlib.closing(connect(target)) as connection, transact(connection):
        staff.ensure_scope(connection, staff.create_staff(connection, {"name": "Linus"}).id, "kim")
    again = export_lines(target, import_lines(target, exported))
    assert [strip_numbers(line) for line in again] == [strip_numbers(line) for line in exported]
    assert again != exported


def strip_numbers(line: str) -> dict[str, Any]:
    entry = json.loads(line)
    row = entry.get("row", {})
    if entry.get("table") == "scopes":
        del row["id"]
        del row["last_memory"]  # a counter of places, taken anew
    if entry.get("table") == "memories":
        row["number"] &= 0xFFFFFFFF
        del row["embedded"]  # without an embedder at hand the server does it
    for name in ("scope_id", "exported_at"):
        row.pop(name, entry.pop(name, None))
    return dict(entry)


def test_a_staff_member_that_is_here_is_not_doubled(db: Path, exported: Lines) -> None:
    """It would be two with one id."""
    import_lines(db, exported)
    rows = count_rows(db)
    with pytest.raises(SetupError, match="is here already"):
        import_lines(db, exported)
    assert count_rows(db) == rows


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def change_head(**values: Any) -> Callable[[Lines], Lines]:
    return lambda lines: [json.dumps(json.loads(lines[0]) | values), *lines[1:]]


def change_row(table: str, **values: Any) -> Callable[[Lines], Lines]:
    """Other values in the first row of a table; ... takes a column away."""

    def change(lines: Lines) -> Lines:
        index = next(n for n, line in enumerate(lines) if json.loads(line).get("table") == table)
        entry = json.loads(lines[index])
        entry["row"] |= values
        entry["row"] = {name: value for name, value in entry["row"].items() if value is not ...}
        return [*lines[:index], json.dumps(entry), *lines[index + 1 :]]

    return change


def add_row(table: str, row: Any) -> Callable[[Lines], Lines]:
    """One more row, with the end adjusted to it."""

    def change(lines: Lines) -> Lines:
        end = json.loads(lines[-1])
        return [*lines[:-1], json.dumps({"table": table, "row": row}), json.dumps(end | {"rows": end["rows"] + 1})]

    return change


FOREIGN = "01890000-0000-7000-8000-000000000000"
WRONG: dict[str, Callable[[Lines], Lines]] = {
    "empty": lambda lines: [],
    "other format": change_head(format="something"),
    "later version": change_head(version=2),
    "newer schema": change_head(schema=999),
    "no end": lambda lines: lines[:-1],
    "cut in the middle": lambda lines: lines[: len(lines) // 2],
    "a row lost": lambda lines: [*lines[:5], *lines[6:]],
    "a row twice": lambda lines: [*lines[:5], lines[4], *lines[5:]],
    "more after the end": lambda lines: [*lines, lines[-1]],
    "no JSON": lambda lines: [lines[0], "{", *lines[1:]],
    "no object": lambda lines: [lines[0], "[]", *lines[1:]],
    "deep": lambda lines: [lines[0], "[" * 100_000, *lines[1:]],
    "unknown table": add_row("api_keys", {"id": "x"}),
    "internal table": add_row("sqlite_schema", {"name": "x"}),
    "no table": add_row("", {}),
    "row is no object": add_row("staff", "x"),
    "unknown column": change_row("staff", colour="red"),
    "a secret": change_row("staff", webhook_secrets="[]"),
    "column that is SQL": change_row("staff", **{"id) VALUES ('x'); --": "x"}),
    "missing column": change_row("messages", content=...),
    "no staff id": change_row("staff", id=...),
    "nested value": change_row("messages", content={"a": 1}),
    "list for an id": change_row("conversations", id=[]),
    "wrong type": change_row("messages", turn="first"),
    "broken rule": change_row("messages", message_type="system"),
    "huge number": change_row("messages", turn=10**30),
    "not a number": change_row("memories", importance=float("nan")),
    "number of a memory is text": change_row("memories", number="1"),
    "lone surrogate": change_row("messages", content="\ud800"),
    "foreign conversation": change_row("messages", conversation_id=FOREIGN),
    "foreign scope": change_row("conversations", scope_id=999),
    "foreign staff": change_row("scopes", staff_id=FOREIGN),
    "foreign source": change_row("memories", source_message_id=FOREIGN),
    "foreign successor": change_row("memories", superseded_by=FOREIGN),
    "no number": change_row("memories", number=...),
    "number of another scope": change_row("memories", number=(1 << 32) - 1),
    "no scope": change_row("messages", scope_id=None),
    "no scope of a run": change_row("runs", scope_id=None),
    "no id of a scope": change_row("scopes", id=...),
    "nobody's scope": change_row("scopes", staff_id=None),
    "room that ends in another scope": change_row("scopes", last_memory=1 << 32),
    "room below nothing": change_row("scopes", last_memory=-5),
    "a run to be made": change_row("runs", state="queued", finished_at=None),
    "a time that is none": change_row("messages", created_at="yesterday"),
    "a time in another form": change_row("conversations", updated_at="2026-01-01"),
    "usage that is none": change_row("messages", usage="much"),
    "usage that is a list": change_row("messages", usage="[1]"),
    "an error without its words": change_row("runs", state="failed", error='{"code": "x"}'),
    "a record that is deep": change_row("run_contexts", record="[" * 100_000),
    "second staff member": add_row("staff", {"id": FOREIGN, "name": "x", "created_at": "x", "updated_at": "x"}),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_not_right_is_refused_whole(tmp_path: Path, exported: Lines, how: str) -> None:
    """With a sentence of ours, and nothing is saved."""
    target = tmp_path / "target.db"
    prepare(target)
    with pytest.raises(SetupError):
        import_lines(target, WRONG[how](exported))
    assert count_rows(target) == 0


async def test_a_file_cannot_attach_anything_to_what_is_here(
    tmp_path: Path, provider: ScriptedProvider, exported: Lines
) -> None:
    """Not even by naming ids that exist: every reference must lead to a row of the file."""
    target = tmp_path / "target.db"
    async with serve_here(target, provider) as api:
        grace = await api.make_staff("Grace")
        received = await api.ask(grace, "hello")
    conversation = received.headers["x-conversation-id"]
    rows = count_rows(target)
    for wrong in (
        change_row("messages", conversation_id=conversation),
        change_row("scopes", staff_id=grace),
        change_row("memories", conversation_id=conversation),
        change_row("runs", user_message_id=received.headers["x-user-message-id"]),
    ):
        with pytest.raises(SetupError):
            import_lines(target, wrong(exported))
    assert count_rows(target) == rows


def test_random_damage_is_refused_or_harmless(tmp_path: Path, exported: Lines) -> None:
    """Whatever byte is changed: an error of ours, or a database that is whole."""
    target = tmp_path / "target.db"
    prepare(target)
    data = "\n".join(exported).encode()
    chance = random.Random(7)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.closing(connect(target)) as connection:
            with contextlib.suppress(SetupError), transact(connection):
                archive.import_staff(connection, damaged.decode("utf-8", "replace").split("\n"), None)
            with transact(connection):
                for member in staff.list_staff(connection):
                    for scope in staff.list_scopes(connection, member.id):
                        memories.purge_memories(connection, scope)
                    staff.delete_staff(connection, member.id)
    check_backup(target)


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_commands_move_a_staff_member(db: Path, tmp_path: Path, exported: Lines) -> None:
    """By name, into a new private file, and into a database that is made for it."""
    import_lines(db, exported)
    file = tmp_path / "ada.jsonl"
    done = run_command("export", "Ada", "--to", file, db=db)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "rows" in done.stderr  # progress
    assert run_command("export", "Ada", "--to", file, db=db).returncode == 2  # replaces nothing
    assert run_command("export", "Ada", db=db).stdout.splitlines()[1:] == file.read_text("utf-8").splitlines()[1:]
    there = tmp_path / "there.db"
    moved = run_command("import", file, db=there)
    assert moved.returncode == 0, moved.stderr
    with contextlib.closing(connect(there)) as connection:
        assert [member.id for member in staff.list_staff(connection)] == [moved.stdout.splitlines()[-1]]
        assert count_unembedded(connection) == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{}\n", b"hello\n", b"x" * 1000])
def test_the_command_refuses_what_is_no_export(db: Path, tmp_path: Path, content: bytes) -> None:
    """With status 2 and no traceback."""
    file = tmp_path / "wrong"
    file.write_bytes(content)
    for path in (file, tmp_path / "missing", tmp_path):
        refused = run_command("import", path, db=db)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("head", [{"version": 2}, {"schema": 999}])
async def test_a_newer_export_is_named_as_one(db: Path, tmp_path: Path, head: dict[str, int]) -> None:
    """With what to do, and both versions."""
    with contextlib.closing(connect_prepared(db)) as connection, transact(connection):
        member = staff.create_staff(connection, {"name": "Ada"})
        lines = list(archive.export_staff(connection, member.id))
    with pytest.raises(SetupError, match=r"newer staffstream .* Upgrade this"):
        import_lines(tmp_path / "other.db", change_head(**head)(lines))


async def test_the_webhook_of_a_file_is_never_taken_over_silently(db: Path, tmp_path: Path) -> None:
    """Whoever wrote the file would be sent every reply: the URL is shown, and kept when somebody says so."""
    url = "https://hooks.example/x?token=1"
    with contextlib.closing(connect_prepared(db)) as connection, transact(connection):
        member = staff.create_staff(connection, {"name": "Ada", "webhook_url": url})
        file = tmp_path / "ada.jsonl"
        file.write_text("\n".join(archive.export_staff(connection, member.id)) + "\n")
    for flags, kept in (((), None), (("--keep-webhook",), url)):
        other = tmp_path / f"other{len(flags)}.db"
        done = run_command("import", file, *flags, db=other)
        assert done.returncode == 0, done.stderr
        assert url in done.stdout + done.stderr
        with contextlib.closing(connect_prepared(other)) as connection:
            assert [found.webhook_url for found in staff.list_staff(connection)] == [kept]
