"""What Prometheus is told, and the dashboard and rules that rely on it."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from staffstream.support.metrics import Metrics
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, Reply, http_error
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

OPS = Path(__file__).parents[2] / "docs" / "ops"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_samples(text: str) -> Samples:
    """{(name, labels): value} of an exposition."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """What one look at /metrics showed."""

    def __init__(self, text: str) -> None:
        self._samples = read_samples(text)

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a sample without its prefix; 0 for one that is not there."""
        return self._samples.get((f"staffstream_{name}", frozenset(labels.items())), 0.0)


async def scrape(api: Api) -> Scrape:
    answer = await api.http.get(f"{api.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text)


async def scrape_until(api: Api, name: str, value: float, **labels: str) -> Scrape:
    """The first scrape in which a sample has a value."""
    async with asyncio.timeout(DEADLINE_S):
        while (seen := await scrape(api))(name, **labels) != value:
            await asyncio.sleep(0.01)
    return seen


async def test_a_reply_is_counted_with_its_stages(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Once each: the end, the first token, every stage before it, the gaps, the prompt, the search, the tokens."""
    provider.script(Reply(["one", " two", " three"]))
    received = await api.ask(ada, "hello")
    seen = await scrape(api)
    assert seen("runs_total", mode="stream", state="done", code="") == 1
    assert seen("first_token_seconds_count", mode="stream") == 1
    assert seen("reply_seconds_count", mode="stream") == 1
    for stage in ("accept", "queue", "build", "claude", "think"):
        assert seen("stage_seconds_count", stage=stage, mode="stream") == 1, stage
    assert seen("token_gap_seconds_count") == (1 if received.end["usage"]["output_tokens"] > 1 else 0)
    assert seen("context_tokens_count", section="all") == 1
    assert seen("context_tokens_sum", section="question") > 0
    assert seen("recall_seconds_count") == 1
    assert seen("recalled_memories_count") == 1
    model = (await api.run(ada, received.run_id))["model"]
    assert seen("tokens_total", model=model, kind="output") == received.end["usage"]["output_tokens"]
    assert seen("tokens_total", model=model, kind="input") == received.end["usage"]["input_tokens"]
    assert seen("cost_dollars_total", model=model) > 0


async def test_ends_are_told_apart(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """A failure by its code, a cancellation, and a request that was answered with a problem."""
    provider.script(http_error(401))
    await api.ask(ada, "hello")
    gate = provider.hold(["one", " two"])
    gate.release()
    async with api.stream(ada, "hello") as stream_reader:
        await stream_reader.token()
        await api.cancel(ada, stream_reader.run_id)
        await stream_reader.rest()
    await api.get("/staff/nobody", 404)
    await api.get("/nothing", 404)
    seen = await scrape(api)
    assert seen("runs_total", mode="stream", state="failed", code="upstream_key_refused") == 1
    assert seen("runs_total", mode="stream", state="cancelled", code="") == 1
    assert seen("problems_total", status="502", code="upstream_key_refused") == 1
    assert seen("problems_total", status="404", code="not_found") == 2


async def test_what_goes_on_is_seen(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Replies being made and their readers, and neither when they are over."""
    gate = provider.hold(["one", " two"])
    gate.release()
    async with api.stream(ada, "hello") as stream_reader:
        await stream_reader.token()
        async with api.join(ada, stream_reader.run_id) as second:
            await second.token()
            seen = await scrape(api)
            assert seen("active_runs", mode="stream") == 1
            assert seen("subscribers") == 2
            gate.open()
            await second.rest()
        await stream_reader.rest()
    seen = await scrape_until(api, "subscribers", 0)
    assert seen("active_runs", mode="stream") == 0


async def test_what_waits_is_seen(db: Path, provider: ScriptedProvider) -> None:
    """A queued reply that finds no room, and how long it has been due."""
    async with serve_here(db, provider, async_concurrency=1) as api:
        ada, linus = await api.make_staff(), await api.make_staff("Linus")
        gate = provider.hold(["one"])
        await api.send(ada, "first")
        await provider.arrived(1)
        second = await api.send(linus, "second")
        seen = await scrape_until(api, "queued_runs", 1)
        assert seen("queue_age_seconds") > 0
        gate.open()
        await api.ended_run(linus, second["run_id"])
        seen = await scrape_until(api, "runs_total", 2, mode="async", state="done", code="")
        assert seen("queued_runs") == 0


async def test_background_work_is_counted(db: Path, provider: ScriptedProvider) -> None:
    """Attempts by kind and outcome; what the background model takes counts as well."""
    async with serve_here(db, provider, extract_every_messages=2, background_model="claude-haiku-5-5") as api:
        ada = await api.make_staff()
        await api.ask(ada, "I live in Bergen.")
        seen = await scrape_until(api, "jobs_total", 1, kind="extract", outcome="done")
        assert seen("jobs_dead", kind="extract") == 0


async def test_the_database_is_watched(api: Api, ada: str) -> None:
    """Commits, how many transactions shared them, and the sizes of the files."""
    await api.ask(ada, "hello")
    seen = await scrape(api)
    assert 0 < seen("commit_seconds_count") == seen("commit_transactions_count") <= seen("commit_transactions_sum")
    assert seen("database_bytes") > 0
    assert seen("wal_bytes") > 0


async def test_nothing_is_counted_per_token(
    api: Api, ada: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reply takes as many observations as a short one; commits aside, which go by the clock."""
    observe, seen = Histogram.observe, []

    def note(self: Histogram, *args: Any, **options: Any) -> None:
        seen.append(self)
        observe(self, *args, **options)

    monkeypatch.setattr(Histogram, "observe", note)
    metrics = api.app.metrics

    async def count(words: int) -> int:
        provider.script(Reply([f"{n} " for n in range(words)]))
        seen.clear()
        await api.ask(ada, "hello")
        return sum(item is not metrics.commits and item is not metrics.batches for item in seen)

    await count(2)
    assert await count(400) == await count(2)


async def test_what_alerts_watch_is_there_from_the_start(api: Api) -> None:
    """A series that begins at 1 has not increased, to Prometheus: the first failure would alarm nobody."""
    answer = await api.http.get(f"{api.url}/metrics")
    there = read_samples(answer.text)
    for expression in list_expressions():
        for name, code in re.findall(r'increase\((\w+)\{code=~?"([^"]+)"', expression):
            for each in code.split("|"):
                found = [
                    value for (sample, labels), value in there.items() if sample == name and ("code", each) in labels
                ]
                assert found, (name, each)
                assert set(found) == {0}


async def test_two_apps_share_nothing(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Each has a registry of its own, in one process."""
    async with serve_here(tmp_path / "a.db", provider) as one, serve_here(tmp_path / "b.db", provider) as two:
        await one.ask(await one.make_staff(), "hello")
        assert (await scrape(one))("runs_total", mode="stream", state="done", code="") == 1
        assert (await scrape(two))("runs_total", mode="stream", state="done", code="") == 0


# ── the dashboard and the rules ──────────────────────────────────────────────────────────────────────────────────────


def list_exported() -> dict[str, set[str]]:
    """{sample name: names of its labels} of everything that is exported, whether or not it has values yet."""
    exported: dict[str, set[str]] = {}
    for family in Metrics()._registry.collect():
        labels = set(_find_labels(family.name))
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}[family.type]
        for suffix in suffixes:
            exported[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return exported


def _find_labels(name: str) -> tuple[str, ...]:
    for metric in vars(Metrics()).values():
        if getattr(metric, "_name", None) == name:
            return tuple(metric._labelnames)
    return ()


def list_expressions() -> list[str]:
    dashboard = json.loads((OPS / "grafana-dashboard.json").read_text("utf-8"))
    rules = yaml.safe_load((OPS / "alerts.yml").read_text("utf-8"))
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_the_dashboard_and_the_rules_name_what_is_exported() -> None:
    """Every metric and every label in them."""
    exported = list_exported()
    for expression in list_expressions():
        names = re.findall(r"\b(?:staffstream|process)_\w+", expression)
        assert names or "up{" in expression, expression
        assert set(names) <= exported.keys(), expression
        labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression))
        labels |= {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        if names:
            assert labels <= set().union(*(exported[name] for name in names)), expression


def test_the_dashboard_shows_everything() -> None:
    """What is exported and shown nowhere would be there for nobody."""
    text = " ".join(list_expressions())
    for name in list_exported():
        if name.startswith("staffstream_"):
            assert re.sub(r"_(bucket|count|sum|total)$", "", name) in text, name


def test_each_rule_says_what_to_do() -> None:
    """A summary, a description and how urgent it is."""
    rules = yaml.safe_load((OPS / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_alerts_watch_codes_that_exist() -> None:
    """An error code in a rule is one of the error tree's."""
    from staffstream import errors

    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    for expression in list_expressions():
        for named in re.findall(r'code=~?"([^"]+)"', expression):
            assert set(named.split("|")) <= codes
