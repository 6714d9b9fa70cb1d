"""The commands of docs/grpc.md for Connect, as a newcomer copies them."""

import asyncio
import json

from support.grpc.over_http import OverHttp
from support.manual import Manual
from support.paths import DOCS

from gateway.testing import GatewayFor

MANUAL = Manual(DOCS / "grpc.md")


async def test_the_line_for_curl_works_as_printed(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    command = MANUAL.block("bash", "content-type: application/json", live.url)
    running = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    told, _ = await running.communicate()
    printed = json.loads(MANUAL.block("json", "latencyMs"))
    found = json.loads(told)
    assert found.keys() == printed.keys()
    counts = ("finishReason", "promptTokens", "completionTokens", "totalTokens")
    assert [found[name] for name in counts] == [printed[name] for name in counts]
