"""What the plugin `usage` counts of calls that went well, badly, or not at all."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.usage import KeyUsage
from gateway_plugins.usage.ledger.model_names import MAX_MODELS
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.plugins.samplers import Sampler

from gateway import Call, Principal, hookimpl
from gateway.config import StorageSettings
from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    make_call,
    sse,
)

CHAT = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


class Badges:
    """Knows everybody who shows a badge, by the name on it; the scopes stand after the name."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name, *scopes = (call.header("authorization") or "").split()[:9] or [""]
        return Principal(name, frozenset(scopes or ["realtime"])) if name else None


async def ask(live: Live, badge: str = "ada", sim: str = "", **fields: Any) -> httpx.Response:
    headers = {"authorization": badge, **({"x-sim-fault": sim} if sim else {})}
    return await live.client.post(CHAT, json=chat(ignore_eos=True, **fields), headers=headers)


async def rows(live: Live, query: str = "", badge: str = "eve monitor") -> list[dict[str, Any]]:
    answer = await live.client.get(f"/monitor/key_usage?{query}", headers={"authorization": badge})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def counts(row: Mapping[str, Any]) -> tuple[int, ...]:
    """Requests, successes, errors, aborts."""
    return tuple(row[name] for name in ("requests", "successes", "errors", "aborts"))


async def used(live: Live, key: str = "ada") -> dict[str, Any]:
    """The one row of that key."""
    [row] = [row for row in await rows(live) if row["key"] == key]
    return row


async def over(live: Live) -> None:
    """Wait until all calls are: a caller that left, or was left, does not see that."""
    await until(lambda: not live.gateway.proxy.in_flight)


async def test_usage_counts_plain_and_streamed_calls_by_the_engine_s_usage(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Badges, "usage")
    plain = (await ask(live, max_tokens=5)).json()["usage"]
    quiet = await ask(live, max_tokens=5, stream=True)
    options = {"include_usage": True}
    told = await ask(live, max_tokens=5, stream=True, stream_options=options)
    assert '"usage":{' not in quiet.text, "who has not asked for it does not see it"
    assert '"usage":{' in told.text
    row = await used(live)
    assert row["worker"] == live.gateway.workers.all[0].id
    assert (row["model"], row["source"], row["counted"]) == ("sim", "realtime", 0)
    assert counts(row) == (3, 3, 0, 0)
    assert row["prompt_tokens"] == 3 * plain["prompt_tokens"]
    assert row["completion_tokens"] == 3 * plain["completion_tokens"] == 15
    assert row["total_tokens"] == row["prompt_tokens"] + 15


async def test_usage_counts_cached_and_reasoning_tokens(gateway_for: GatewayFor) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    answer = json.dumps({"choices": [], "usage": usage}).encode()
    async with ScriptedWorker(answer_of(answer)) as worker:
        live = await gateway_for(Badges, "usage", workers=[worker.url])
        await ask(live)
    row = await used(live)
    assert (row["cached_tokens"], row["reasoning_tokens"]) == (8, 5)
    assert row["total_tokens"] == 17


async def test_usage_counts_an_abort_from_the_stream_if_the_caller_leaves(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Badges, "usage")
    headers = {"authorization": "ada", "x-sim-itl": "0.005"}
    body = chat(stream=True, max_tokens=2000, ignore_eos=True)
    async with live.client.stream("POST", CHAT, json=body, headers=headers) as answer:
        coming = answer.aiter_bytes()
        seen = await first_bytes(coming, 1000)
    await over(live)
    row = await used(live)
    assert (counts(row), row["counted"]) == ((1, 0, 0, 1), 1)
    assert row["completion_tokens"] >= seen.count(b'"content"') - 1 > 0
    assert row["prompt_tokens"] > 0


async def first_bytes(coming: AsyncIterator[bytes], size: int) -> bytes:
    seen = b""
    while len(seen) < size:
        seen += await anext(coming)
    return seen


@pytest.mark.parametrize(
    ("fault", "status"), [("500", 500), ("503", 503), ("reset-before", 502), ("garbage", 502)]
)
async def test_usage_counts_error_responses_without_tokens(
    gateway_for: GatewayFor, fault: str, status: int
) -> None:
    live = await gateway_for(Badges, "usage")
    assert (await ask(live, sim=fault)).status_code == status
    row = await used(live)
    assert counts(row) == (1, 0, 1, 0)
    assert (row["total_tokens"], row["counted"]) == (0, 0)


async def test_usage_counts_a_broken_stream_as_an_error_with_its_tokens(
    gateway_for: GatewayFor,
) -> None:
    events = [sse({"choices": [{"index": 0, "delta": {"content": one}}]}) for one in "abc"]

    async def breaking(connection: ScriptedConnection) -> None:
        await connection.read_request()
        head = HEAD.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n")
        await connection.write(head + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in events))

    async with ScriptedWorker(breaking) as worker:
        live = await gateway_for(Badges, "usage", workers=[worker.url])
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(live, stream=True)
        await over(live)
    row = await used(live)
    assert (counts(row), row["counted"]) == ((1, 0, 1, 0), 1)
    assert row["completion_tokens"] == 3


async def test_usage_counts_calls_rejected_with_403_but_not_with_401(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Badges, "usage")
    assert (await ask(live, badge="")).status_code == 401
    assert (await ask(live, badge="bob monitor")).status_code == 403
    [row] = await rows(live)
    assert (row["key"], row["model"], row["worker"]) == ("bob", "", "")
    assert counts(row) == (1, 0, 1, 0)
    assert simulator.stats.accepted == 0


async def test_usage_counts_calls_without_a_principal_under_internal_id(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("usage", internal_id="house"))
    await ask(live)
    assert (await used(live, "house"))["requests"] == 1
    live.plugin(KeyUsage).reconfigure(KeyUsage.Config(internal_id="garden"))
    await ask(live)
    assert [row["key"] for row in await rows(live)] == ["garden", "house"]


async def test_usage_counts_internal_calls_under_their_principal(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    for principal in (None, Principal("ada")):
        call = make_call(chat())
        call.internal, call.principal = True, principal
        await live.gateway.proxy.dispatch(call)
        assert call.outcome.complete
    assert [row["key"] for row in await rows(live)] == ["ada", "internal"]


async def test_usage_separates_eval_batch_and_realtime(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    for scope in ("eval", "batch", "realtime"):
        await ask(live, badge=f"ada {scope}")
    assert [row["source"] for row in await rows(live)] == ["batch", "eval", "realtime"]


async def test_usage_counts_unserved_model_names_as_other(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    for name in ("x", "y", "\x1b[2J"):
        assert (await ask(live, model=name)).status_code == 404
    await live.client.get("/v1/models", headers={"authorization": "ada"})
    await ask(live)
    await ask(live, sim="500")
    found = {row["model"]: row["requests"] for row in await rows(live)}
    assert found == {"": 1, "other": 3, "sim": 2}


async def test_usage_limits_the_number_of_model_names_across_restarts(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_plugins.usage.ledger.model_names.MAX_MODELS", 2)
    assert MAX_MODELS == 1_000
    path = str(tmp_path / "gateway.db")
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        first = await gateway_for(
            Badges, "usage", workers=[worker.url], storage=StorageSettings(path=path)
        )
        for name in "ab":
            await ask(first, model=name)
        await first.gateway.storage.flush()
        live = await gateway_for(
            Badges, "usage", workers=[worker.url], storage=StorageSettings(path=path)
        )
        await until(lambda: "b" in live.plugin(KeyUsage).models)
        for name in "ca":
            await ask(live, model=name)
    assert {row["model"]: row["requests"] for row in await rows(live)} == {
        "a": 2,
        "b": 1,
        "other": 1,
    }


async def test_key_usage_route_returns_each_row_once_over_its_pages(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Badges, "usage")
    await asyncio.gather(*(ask(live, badge=f"key-{n}") for n in range(5)))
    seen, cursor = [], ""
    while True:
        answer = await live.client.get(
            f"/monitor/key_usage?limit=2{cursor}", headers={"authorization": "eve monitor"}
        )
        page = answer.json()
        assert (page["object"], page["bucket"]) == ("list", None)
        seen += [row["key"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [f"key-{n}" for n in range(5)]
    wrong = f"bucket=20260101{cursor}"
    refused = await live.client.get(
        f"/monitor/key_usage?{wrong}", headers={"authorization": "eve monitor"}
    )
    assert refused.status_code == 400, "a cursor of the totals leads into no day"
    assert refused.json()["error"]["param"] == "cursor"


async def test_key_usage_route_returns_the_usage_of_one_day(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    await ask(live)
    own = await live.client.get("/v1/usage", headers={"authorization": "ada"})
    [day] = own.json()["days"]
    assert await rows(live, f"bucket={day['day']}") == await rows(live)
    assert await rows(live, "bucket=20000101") == []


@pytest.mark.parametrize(
    "query",
    [
        *(
            "limit=0",
            "limit=1001",
            "limit=x",
            "bucket=2026",
            "bucket=20261399",
            "bucket=00000000",
            "colour=red",
        ),
        *("cursor=x", "cursor=%00", "cursor=bnVsbA==", "cursor=e30=", "bucket=%D9%A11111111"),
    ],
)
async def test_key_usage_route_rejects_invalid_query_parameters(
    gateway_for: GatewayFor, query: str
) -> None:
    live = await gateway_for(Badges, "usage")
    answer = await live.client.get(
        f"/monitor/key_usage?{query}", headers={"authorization": "eve monitor"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in query


async def test_key_usage_route_requires_the_monitor_scope(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    for badge, status in (("", 401), ("ada realtime admin", 403), ("ada monitor", 200)):
        answer = await live.client.get("/monitor/key_usage", headers={"authorization": badge})
        assert answer.status_code == status


async def test_own_usage_route_returns_the_key_s_usage_and_is_not_counted(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Badges, "usage")
    await ask(live, badge="ada eval")
    await ask(live, badge="bob")
    for _ in range(2):
        answer = await live.client.get("/v1/usage", headers={"authorization": "ada batch"})
        own = answer.json()
        assert (own["object"], own["key"]) == ("usage", "ada")
        [total], [day] = own["totals"], own["days"]
        assert (total["model"], total["source"], total["requests"]) == ("sim", "eval", 1)
        assert "worker" not in total
        assert day["total_tokens"] == total["total_tokens"] > 0
    assert simulator.stats.served == 2
    refused = await live.client.get("/v1/usage", headers={"authorization": "ada monitor"})
    assert refused.status_code == 403


async def test_own_usage_route_returns_503_if_the_storage_cannot_be_read(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "gateway.db"
    live = await gateway_for(Badges, "usage", storage=StorageSettings(path=str(path)))
    await ask(live)
    await live.gateway.storage.flush()
    shutil.rmtree(folder)
    refused = await live.client.get("/v1/usage", headers={"authorization": "ada"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "storage_unavailable"
    assert str(tmp_path) not in refused.text


async def test_usage_counts_all_choices_of_a_completion_stream(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    body = {"model": "sim", "prompt": ["Hello", "Hi"], "max_tokens": 3, "n": 2}
    body |= {"stream": True, "ignore_eos": True}
    answer = await live.client.post("/v1/completions", json=body, headers={"authorization": "ada"})
    assert answer.text.endswith(DONE.decode())
    assert (await used(live))["completion_tokens"] == 12


async def test_usage_exports_committed_calls_to_metrics(gateway_for: GatewayFor) -> None:
    live = await gateway_for("usage", "metrics")
    await ask(live)
    await live.gateway.storage.flush()
    text = (await live.client.get("/metrics")).text
    assert "gateway_usage_calls_total 1.0" in text
    assert "gateway_usage_calls_lost_total 0.0" in text


async def test_usage_counts_concurrent_and_aborted_calls_once_each(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Badges, "usage")
    leaving = [asyncio.create_task(ask(live, sim="slow:3600")) for _ in range(5)]
    await until(lambda: simulator.stats.in_flight == 5)
    await asyncio.gather(*(ask(live, stream=bool(n % 2)) for n in range(20)))
    for one in leaving:
        one.cancel()
    await over(live)
    assert counts(await used(live)) == (25, 20, 0, 5)


@pytest.mark.parametrize("records", ["", "yes"])
async def test_row_has_the_span_of_its_call(
    gateway_for: GatewayFor, simulator: Simulator, records: str
) -> None:
    live = await gateway_for(Badges, "usage", Sampler)
    trace, parent = "ab" * 16, "cd" * 8
    given = {"traceparent": f"00-{trace}-{parent}-01", "x-records": records}
    for headers in (given, {}):
        badge = {"authorization": "ada"}
        await live.client.post(CHAT, json=chat(), headers=headers | badge)
    context = live.plugin(Sampler).contexts[0]
    stored = "SELECT hex(distributed_trace_id), hex(span_id) FROM usage_calls ORDER BY number"
    found: list[tuple[str, ...]] = []
    while len(found) < 2:  # the rows are committed shortly after
        read = live.gateway.storage.read
        found = await read(lambda db: [tuple(map(str, one)) for one in db.select(stored)])
    own = context.span_id if records else parent
    assert found == [(trace.upper(), own.upper()), ("", "")]
