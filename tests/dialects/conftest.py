"""What the tests of several dialects share."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.tools.server import Api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, which is not to try again on its own."""
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0) as client:
        yield client
