"""Kept responses before workers that speak only chat, and with the plugin `translate` beside."""

from pathlib import Path
from typing import Any

import openai
import pytest
from stored_responses.conftest import STORED
from support.gateways.capturing import capturing

from gateway import ConfigError
from gateway.config import Worker
from gateway.simulator import Simulator
from gateway.testing import GatewayFor

TRANSLATE = "gateway_plugins.translate:Translate"


async def test_all_of_it_goes_to_workers_that_speak_only_chat(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator() as one, Simulator() as two:
        workers = tuple(Worker(url=each.url, apis=("chat",)) for each in (one, two))
        live = await capturing(gateway_for, tmp_path, STORED, TRANSLATE, workers=workers)
        url = f"{live.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asked: dict[str, Any] = {"model": "sim", "max_output_tokens": 5}
            first = await client.responses.create(input="Hello", **asked)
            second = await client.responses.create(
                input="More", previous_response_id=first.id, **asked
            )
            talk = await client.conversations.create()
            third = await client.responses.create(input="Hi", conversation=talk.id, **asked)
            queued = await client.responses.create(input="Hi", background=True, **asked)
            alone = await client.responses.create(input="Hi", store=False, **asked)
            with pytest.raises(openai.BadRequestError, match="no worker takes"):
                await client.responses.create(input="Hi", prompt={"id": "p"}, **asked)
        assert all(one.output_text for one in (first, second, third, alone))
        assert queued.status == "queued"


async def test_the_order_of_the_plugins_is_checked(gateway_for: GatewayFor) -> None:
    with pytest.raises(ConfigError, match="translate must come after stored_responses"):
        await gateway_for("translate", "stored_responses")
    with pytest.raises(ConfigError, match="trace_capture must come after translate"):
        await gateway_for("trace_capture", "translate")
