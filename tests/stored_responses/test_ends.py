"""A response in the background has ended for its callers once that is kept, and not before."""

import asyncio
from pathlib import Path
from typing import Any

import openai
from stored_responses.conftest import STORED
from stored_responses.test_background import ended
from support.gateways.capturing import capturing

from gateway import Call, Outcome, hookimpl
from gateway.testing import GatewayFor


class Holding:
    """Holds back the commits of calls that sample until it is told to let them go."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        if call.internal:
            self.reached.set()
            await self.go.wait()


async def test_a_response_that_has_ended_can_be_followed(
    gateway_for: GatewayFor, tmp_path: Path, simulator: object
) -> None:
    running = await capturing(gateway_for, tmp_path, Holding, STORED)
    holding = running.plugin(Holding)
    url = f"{running.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        fields: Any = {"model": "sim", "input": "Hello", "max_output_tokens": 2}
        made = await client.responses.create(background=True, **fields)
        await holding.reached.wait()
        assert (await client.responses.retrieve(made.id)).status in ("queued", "in_progress")
        holding.go.set()
        await ended(client, made.id)
        assert (await client.responses.create(previous_response_id=made.id, **fields)).output_text
