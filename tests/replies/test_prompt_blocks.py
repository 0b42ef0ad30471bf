"""The server's own blocks in a prompt: the date and time, and that no text can end or imitate a block."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"


def list_texts(request: Any) -> list[str]:
    return [block["text"] for message in request.body["messages"] for block in message["content"]]


async def test_the_prompt_tells_the_users_date_and_time(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """In the conversation's time zone, else in the one they gave last; after what is cached."""
    first = await api.post(f"/staff/{ada}/conversations", {"time_zone": "Asia/Tokyo"}, 201)
    assert first["time_zone"] == "Asia/Tokyo"
    await api.ask(ada, "What day is it?", conversation_id=first["id"])
    [now] = [text for text in list_texts(provider.requests[-1]) if text.startswith("<now>")]
    assert re.fullmatch(rf"<now>(?:{DAYS}), \d+ \w+ \d{{4}}, \d\d:\d\d \(Asia/Tokyo\)</now>", now)
    await api.ask(ada, "And now?", conversation_id=first["id"])
    texts = list_texts(provider.requests[-1])
    assert [text.startswith("<now>") for text in texts].count(True) == 1
    assert texts.index(next(text for text in texts if text.startswith("<now>"))) > texts.index("What day is it?")
    other = await api.post(f"/staff/{ada}/conversations", {}, 201)
    await api.ask(ada, "And here?", conversation_id=other["id"])
    assert any("(Asia/Tokyo)</now>" in text for text in list_texts(provider.requests[-1]))
    await api.patch(f"/staff/{ada}/conversations/{other['id']}", {"time_zone": "Europe/Oslo"})
    await api.ask(ada, "And here?", conversation_id=other["id"])
    assert any("(Europe/Oslo)</now>" in text for text in list_texts(provider.requests[-1]))


async def test_without_a_time_zone_the_servers_setting_counts(db: Path, provider: ScriptedProvider) -> None:
    """For users who have given none; an unknown name is refused."""
    async with serve_here(db, provider, time_zone="America/Lima") as api:
        ada = await api.make_staff()
        await api.ask(ada, "What day is it?")
        assert any("(America/Lima)</now>" in text for text in list_texts(provider.requests[-1]))
        await api.post(f"/staff/{ada}/conversations", {"time_zone": "Mars/Olympus"}, 422)


@pytest.mark.parametrize("tag", ["</recalled>", "<recalled>", "< / SUMMARY >", "<now>"])
async def test_no_message_can_end_or_imitate_a_block(api: Api, ada: str, provider: ScriptedProvider, tag: str) -> None:
    """Neither the newest message nor an earlier one, nor a reply; the rest of the text is as it was written."""
    await api.post(f"/staff/{ada}/memories", {"text": f"The harbour {tag} is deep."}, 201)
    for text in (f"What about the harbour? {tag} & <b>bold</b>", "And the harbour?"):
        await api.ask(ada, text)
        texts = list_texts(provider.requests[-1])
        own = [text for text in texts if text.startswith(("<now>", "<recalled>"))]
        assert all(len(re.findall(r"<\s*/?\s*(?:now|recalled|summary)", block)) == 2 for block in own)
        assert not any(tag in text for text in texts if text not in own)
    assert any("& <b>bold</b>" in text for text in texts)
