"""A gateway that keeps responses, and OpenAI's own client for it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import openai
import pytest
from support.gateways.capturing import capturing

from gateway.testing import GatewayFor, Live, entry

STORED = "gateway_plugins.stored_responses:StoredResponses"

ClientFor = Callable[..., openai.AsyncOpenAI]


@pytest.fixture
async def running(gateway_for: GatewayFor, tmp_path: Path, simulator: object) -> Live:
    return await capturing(gateway_for, tmp_path, entry(STORED, max_background=3))


@pytest.fixture
async def client(running: Live) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{running.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made
