"""Claims of trajectories by GatewayClient and AsyncGatewayClient, against a real gateway."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from client.test_client import Threaded
from support.gateways.capturing import call, capturing

from gateway.client import AsyncGatewayClient, GatewayClientError, taking
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of

NOW = {"idle_seconds": 0}

ClientFor = Callable[..., Any]


class Looping(Threaded):
    """A GatewayClient whose loop over claims runs in threads, one step at a time."""

    async def iter_claims(self, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        loop = self.blocking.iter_claims(*arguments, **more)
        try:
            while (batch := await asyncio.to_thread(next, loop, None)) is not None:
                yield batch
        finally:
            await asyncio.to_thread(loop.close)  # type: ignore[attr-defined]


@pytest.fixture(params=["blocking", "async"])
def client_for(request: pytest.FixtureRequest) -> ClientFor:
    return AsyncGatewayClient if request.param == "async" else Looping


def sessions(batch: list[Any]) -> list[str]:
    return sorted(one.session_id for one in batch)


async def test_client_claims_and_settles(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(live.url)
    for name in ("a", "b"):
        await call(live, name)
    assert (await client.claim_trajectories()).claims == []
    found = await client.claim_trajectories(9, 60, NOW, order="version")
    assert (sessions(found.claims), found.dropped, found.weight_version) == (["a", "b"], 0, None)
    one, two = (claim.receipt for claim in found.claims)
    assert (await client.extend([one, two])).successful == [one, two]
    assert (await client.release([two])).successful == [two]
    done = await client.acknowledge([one, two])
    assert (done.successful, [failure.code for failure in done.failed]) == (
        [one],
        ["claim_released"],
    )
    whole = (await client.trajectories(found.claims[0].session_id)).trajectories[0]
    assert whole.loss_mask == found.claims[0].loss_mask
    await client.close()


async def test_loop_acknowledges_each_batch_and_ends(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(live.url)
    for name in "abcde":
        await call(live, name)
    found = [sessions(batch) async for batch in client.iter_claims(2, where=NOW, wait=0)]
    assert found == [["a", "b"], ["c", "d"], ["e"]]
    assert [batch async for batch in client.iter_claims(2, where=NOW, wait=0.01, poll=0.01)] == []
    await client.close()


@pytest.mark.parametrize("ends", ["raises", "breaks"])
async def test_loop_that_is_left_releases_its_batch(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor, ends: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(live.url)
    for name in "abc":
        await call(live, name)
    with contextlib.suppress(ZeroDivisionError):
        async with contextlib.aclosing(client.iter_claims(1, where=NOW)) as loop:
            async for batch in loop:
                if sessions(batch) == ["b"]:
                    if ends == "raises":
                        raise ZeroDivisionError
                    break
    found = (await client.claim_trajectories(9, where=NOW)).claims
    assert [(one.session_id, one.deliveries) for one in found] == [("b", 2), ("c", 1)]
    await client.close()


async def test_loop_extends_the_lease_while_its_body_runs(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client, other = client_for(live.url), AsyncGatewayClient(live.url)
    await call(live, "a")
    async for [one] in client.iter_claims(1, 0.4, NOW, wait=0):
        while time.time() < one.lease_until + 0.2:
            assert (await other.claim_trajectories(where=NOW)).claims == []
    assert (await other.acknowledge([one.receipt])).failed == []
    await client.close()
    await other.close()


async def test_loop_raises_if_its_batch_is_not_its_own_any_more(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client, other = client_for(live.url), AsyncGatewayClient(live.url)
    await call(live, "a")
    loop = client.iter_claims(1, 60, NOW)
    [one] = await anext(loop)
    await other.release([one.receipt])
    with pytest.raises(GatewayClientError, match="1 of 1 claims could not") as failed:
        await anext(loop)
    assert failed.value.code == "claim_released"
    await client.close()
    await other.close()


async def test_loop_acknowledges_again_what_the_gateway_did_not_hear(
    client_for: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "RETRY", 0.001)
    claimed = {
        "index": 0,
        "verdict": "COMPLETE",
        "receipt": "r",
        "lease_until": 1.0,
        "deliveries": 1,
        "session_id": "a",
        "session_metadata": {},
        "session_rewards": [],
        "session_lost": 0,
        **{name: [] for name in ("token_ids", "loss_mask", "logprobs", "weight_versions")},
        **{name: [] for name in ("trace_ids", "choices")},
    }
    refused = answer_of(b"{}", status="503 Service Unavailable")
    answers = [
        answer_of(json.dumps({"claims": [claimed]}).encode()),
        refused,
        b"",
        answer_of(b'{"successful": ["r"]}'),
        answer_of(b'{"claims": []}'),
    ]
    asked = []

    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        asked.append(request.split(b" ")[1])
        await connection.write(answers[len(asked) - 1])

    async with ScriptedWorker(script) as gateway:
        client = client_for(gateway.url)
        batches = [batch async for batch in client.iter_claims(1, 60, wait=0)]
        await client.close()
    assert [one.receipt for [one] in batches] == ["r"]
    claim, ack = b"/trajectories/claim", b"/trajectories/ack"
    assert asked == [claim, ack, ack, ack, claim]
