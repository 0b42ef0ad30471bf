"""Reading Claude's bytes past aiohttp: only where aiohttp is as expected, and with the same result elsewhere."""

from collections.abc import Callable

import aiohttp
import pytest

from staffstream.models import fast_reader
from staffstream.models.chat import Event, Prompt, PromptMessage, ProviderTimeouts, Text
from staffstream.models.claude import Claude
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, Reply

pytestmark = pytest.mark.anyio

PROMPT = Prompt("claude-test", 100, [], [PromptMessage("user", [Text("Hi")])])
REPLY = Reply(["Grüße", " from", " afar", "."])
Patch = pytest.MonkeyPatch


def change_layout(patch: Patch) -> None:
    """A reader whose class cannot be changed."""
    patch.setattr(fast_reader, "_ForwardingReader", type("Other", (aiohttp.StreamReader,), {"__slots__": ("more",)}))


def deliver_otherwise(patch: Patch) -> None:
    """A parser that hands bytes on by another method than the one that is overridden."""
    patch.delattr(fast_reader._ForwardingReader, "feed_data")


def wake_otherwise(patch: Patch) -> None:
    """An end that is not told to the future in `_waiter`."""
    feed_eof = aiohttp.StreamReader.feed_eof

    def feed(self: aiohttp.StreamReader) -> None:
        if isinstance(self._waiter, fast_reader._Forwarding):
            self._waiter = None
        feed_eof(self)

    patch.setattr(aiohttp.StreamReader, "feed_eof", feed)


async def ask(provider: ScriptedProvider, *, fast: bool = True) -> list[Event]:
    provider.script(REPLY)
    limits = ProviderTimeouts(DEADLINE_S, DEADLINE_S, DEADLINE_S)
    claude = Claude(limits, api_key="sk-ant-test", base_url=provider.url, fast=fast)
    events: list[Event] = []
    try:
        await claude.stream_reply(PROMPT, events.extend)
    finally:
        await claude.aclose()
    return events


@pytest.fixture
def untried(monkeypatch: Patch) -> dict[type, bool]:
    """What was found out about aiohttp, forgotten."""
    tried: dict[type, bool] = {}
    monkeypatch.setattr(fast_reader, "_tried", tried)
    return tried


async def test_aiohttp_is_as_expected(provider: ScriptedProvider, untried: dict[type, bool]) -> None:
    """With the release that is installed: else the fast path would be lost without anybody noticing."""
    assert "".join(event for event in await ask(provider) if isinstance(event, str)) == "Grüße from afar."
    assert untried == {aiohttp.StreamReader: True}


@pytest.mark.parametrize("break_it", [change_layout, deliver_otherwise, wake_otherwise])
async def test_another_aiohttp_is_read_as_usual(
    provider: ScriptedProvider,
    monkeypatch: Patch,
    untried: dict[type, bool],
    break_it: Callable[[Patch], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same events, and one line in the log."""
    expected = await ask(provider)
    untried.clear()
    break_it(monkeypatch)
    assert [await ask(provider) for _ in range(2)] == [expected, expected]
    assert untried == {aiohttp.StreamReader: False}
    assert caplog.text.count("is not as expected") == 1


async def test_it_can_be_switched_off(provider: ScriptedProvider, untried: dict[type, bool]) -> None:
    """The same events, with nothing tried."""
    assert await ask(provider, fast=False) == await ask(provider, fast=False)
    assert untried == {}
