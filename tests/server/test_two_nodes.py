"""Two nodes on one database: the one that makes a reply is killed, and the other one's subscriber is told."""

from pathlib import Path

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply
from tests.tools.server import start_server

pytestmark = pytest.mark.anyio

LEASE = {"STAFFSTREAM_LEASE_S": "1"}


async def test_a_stream_joined_on_the_other_node_survives_the_kill_of_its_owner(
    db: Path, provider: ScriptedProvider
) -> None:
    """kill -9 in the middle: all that was saved arrives, then exactly one terminal frame, and nothing stays active."""
    gate = Gate()
    provider.script(Reply(["begun", " and cut"], gate=gate))
    async with (
        start_server(db, provider, variables=LEASE) as owner,
        start_server(db, provider, variables=LEASE) as other,
    ):
        ada = await owner.api.make_staff()
        async with owner.api.stream(ada, "Hi") as stream:
            await provider.arrived(1)
            gate.release(1)
            assert (frame := await stream.next()) is not None
            assert frame.data["content"] == "begun"
            run_id = stream.response.headers["x-run-id"]
            async with other.api.join(ada, run_id) as joined:
                assert (frame := await joined.next()) is not None
                assert frame.data["content"] == "begun"
                owner.process.kill()
                await joined.rest()
                assert joined.received.end["type"] == "error"
                assert joined.received.end["code"] == "server_restart"
                assert joined.received.text == "begun"
        run = await other.api.run(ada, run_id)
        assert (run["state"], run["partial_text"]) == ("failed", "begun")
        assert await other.api.said(ada) == ["Hi", "begun"]
