"""Budgets of sessions and runs, over real sockets."""

import asyncio
import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from anthropic import AsyncAnthropic
from gateway_plugins.budgets import Budgets
from openai import AsyncOpenAI
from support.gateways.capturing import CAPTURE, chat
from support.plugins.recording_plugin import Watcher, until

from gateway import Call, Principal, hookimpl
from gateway.simulator import Simulator
from gateway.simulator.config import SimulatorConfig
from gateway.testing import GatewayFor, Live, entry

CHAT = "/v1/chat/completions"


class Scoped:
    """A key is the one scope of its principal."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal("me", frozenset({call.header("authorization") or ""}))


def budgets(**options: object) -> Any:
    return entry(Budgets, **options)


async def ask(live: Live, session: str = "one", run: str = "", **fields: Any) -> httpx.Response:
    headers = {"x-run-id": run} if run else {}
    body = chat(ignore_eos=True, **fields)
    return await live.client.post(f"/sessions/{session}{CHAT}", json=body, headers=headers)


async def told(live: Live, what: str = "sessions/one") -> dict[str, Any]:
    await live.client.post("/admin/flush")
    found: dict[str, Any] = (await live.client.get(f"/budgets/{what}")).json()
    return found


def stopped(answer: httpx.Response, limit: str) -> str:
    assert answer.status_code == 402, answer.text
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("budget_exceeded", limit)
    message: str = error["message"]
    return message


async def test_session_has_so_many_calls(gateway_for: GatewayFor, simulator: Simulator) -> None:
    live = await gateway_for("sessions", budgets(session={"max_calls": 2}))
    assert [(await ask(live)).status_code for _ in range(2)] == [200, 200]
    assert "2 of 2 calls are spent" in stopped(await ask(live), "max_calls")
    assert (await ask(live, "two")).status_code == 200
    assert (await live.client.post(CHAT, json=chat())).status_code == 200, "of no session"
    assert simulator.stats.served == 4


async def test_tokens_are_those_that_the_engine_reports(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", CAPTURE, budgets(session={"max_tokens": 100}))
    usage = (await ask(live)).json()["usage"]
    streamed = await ask(live, stream=True)
    assert b'"usage"' not in streamed.content, "the caller asked for none"
    found = await told(live)
    assert found["spent"] == {
        "calls": 2,
        "tokens": 2 * usage["total_tokens"],
        "completion_tokens": 6,
        "cost": 0.0,
    }
    assert found["reserved"]["calls"] == 0
    assert found["left"] == {"max_tokens": 100 - 2 * usage["total_tokens"]}
    stopped(await ask(live, max_tokens=100), "max_tokens")


async def test_cost_is_that_of_the_prices(gateway_for: GatewayFor) -> None:
    prices = {"*": {"input": 0, "output": 100_000}}
    live = await gateway_for("sessions", CAPTURE, budgets(run={"max_cost": 0.65}, prices=prices))
    assert (await ask(live, run="r")).status_code == 200
    assert (await ask(live, "two", run="r")).status_code == 200
    assert (await told(live, "runs/r"))["spent"]["cost"] == pytest.approx(0.6)
    assert "0.6 of 0.65 of cost" in stopped(await ask(live, "three", run="r"), "max_cost")
    assert (await ask(live, "three", run="other")).status_code == 200


async def test_time_runs_from_the_first_call(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", budgets(session={"max_time": 0.2}))
    assert (await ask(live)).status_code == 200
    found = await told(live)
    async with asyncio.timeout(30):
        while (await ask(live)).status_code == 200:
            pass
    stopped(await ask(live), "max_time")
    assert found["left"]["max_time"] <= 0.2


async def test_calls_at_once_cannot_overrun_a_budget(gateway_for: GatewayFor) -> None:
    """32 calls for 10 tokens each; the budget has room for 8 of them."""
    live = await gateway_for(
        "sessions",
        CAPTURE,
        budgets(session={"max_completion_tokens": 80}, max_wait=20),
    )
    answers = await asyncio.gather(*(ask(live, max_tokens=10) for _ in range(32)))
    served = [answer for answer in answers if answer.status_code == 200]
    assert len(served) == 8
    assert {answer.status_code for answer in answers} == {200, 402}
    assert (await told(live))["spent"]["completion_tokens"] == 80


async def test_call_waits_for_what_others_have_reserved(gateway_for: GatewayFor) -> None:
    """The first may take all, and takes little, as its caller leaves: the second one waits."""
    async with Simulator(SimulatorConfig(itl=0.05)) as worker:
        live = await gateway_for(
            "sessions", budgets(session={"max_completion_tokens": 40}), workers=[worker.url]
        )
        body = chat(ignore_eos=True, stream=True, max_tokens=40)
        async with live.client.stream("POST", f"/sessions/one{CHAT}", json=body) as first:
            await anext(first.aiter_lines())
            second = asyncio.create_task(ask(live, max_tokens=1))
            await until(lambda: live.plugin(Budgets).waiting == 1)
        assert (await second).status_code == 200


async def test_calls_in_flight_hold_the_rest_of_a_budget(gateway_for: GatewayFor) -> None:
    async with Simulator(SimulatorConfig(ttft=30)) as worker:
        live = await gateway_for(
            "sessions",
            budgets(session={"max_completion_tokens": 40}, max_wait=0.01),
            workers=[worker.url],
        )
        first = asyncio.create_task(ask(live, max_tokens=40))
        await until(lambda: live.plugin(Budgets)._running == 1)
        busy = await ask(live, max_tokens=10)
        assert busy.status_code == 429
        assert busy.json()["error"]["code"] == "budget_in_use"
        first.cancel()
        await until(lambda: live.plugin(Budgets)._running == 0)


async def test_length_lowers_the_maximum_and_then_ends_without_tokens(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    session = {"max_completion_tokens": 12, "when_spent": "length"}
    live = await gateway_for("sessions", CAPTURE, budgets(session=session))
    first, second = await ask(live, max_tokens=8), await ask(live, max_tokens=8)
    assert [one.json()["usage"]["completion_tokens"] for one in (first, second)] == [8, 4]
    ended = (await ask(live, n=2)).json()
    assert [choice["finish_reason"] for choice in ended["choices"]] == ["length"] * 2
    assert ended["choices"][0]["message"] == {"role": "assistant", "content": ""}
    assert ended["usage"]["total_tokens"] == 0
    assert simulator.stats.served == 2
    text = await live.client.post(
        "/sessions/one/v1/completions", json={"model": "sim", "prompt": "Hello"}
    )
    assert text.json()["choices"][0]["finish_reason"] == "length"
    refused = await live.client.post(
        "/sessions/one/v1/responses", json={"model": "sim", "input": "Hello"}
    )
    stopped(refused, "max_completion_tokens")
    traces = (await live.client.get("/sessions/one/traces")).json()
    assert len(traces) == 2, "what samples nothing has no trace"


async def test_length_sets_a_maximum_for_who_sets_none(gateway_for: GatewayFor) -> None:
    session = {"max_completion_tokens": 7, "when_spent": "length"}
    live = await gateway_for("sessions", budgets(session=session))
    answer = await ask(live, max_tokens=None)
    assert answer.json()["usage"]["completion_tokens"] == 7


async def test_real_clients_get_length_of_a_spent_budget(gateway_for: GatewayFor) -> None:
    session = {"max_calls": 1, "when_spent": "length"}
    live = await gateway_for(
        "sessions",
        entry("translate", messages="always", responses="always"),
        budgets(session=session),
        "usage",
    )
    assert (await ask(live)).status_code == 200
    base = f"{live.url}/sessions/one"
    hello: Any = [{"role": "user", "content": "Hello"}]
    async with AsyncOpenAI(base_url=f"{base}/v1", api_key="k") as client:
        stream = await client.chat.completions.create(model="sim", messages=hello, stream=True)
        chunks = [chunk async for chunk in stream]
        assert [chunk.choices[0].finish_reason for chunk in chunks] == ["length"]
        told_usage = await client.chat.completions.create(
            model="sim", messages=hello, stream=True, stream_options={"include_usage": True}
        )
        last = [chunk.usage async for chunk in told_usage][-1]
        assert last is not None
        assert last.total_tokens == 0
        made = await client.responses.create(model="sim", input="Hello")
        assert made.status == "incomplete"
        assert made.incomplete_details is not None
        assert made.incomplete_details.reason == "max_output_tokens"
    async with AsyncAnthropic(base_url=base, api_key="k") as claude:
        message = await claude.messages.create(model="sim", max_tokens=9, messages=hello)
        assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 0)
        async with claude.messages.stream(model="sim", max_tokens=9, messages=hello) as events:
            final = await events.get_final_message()
        assert final.stop_reason == "max_tokens"
    usage = (await live.client.get("/monitor/key_usage")).json()["data"]
    assert sum(row["completion_tokens"] for row in usage) == 3
    assert sum(row["counted"] for row in usage) == 0


async def test_real_clients_do_not_retry_a_refusal(gateway_for: GatewayFor) -> None:
    live = await gateway_for(
        "sessions",
        entry("translate", messages="always"),
        budgets(session={"max_calls": 1}),
        Watcher,
    )
    assert (await ask(live)).status_code == 200
    base = f"{live.url}/sessions/one"
    hello: Any = [{"role": "user", "content": "Hello"}]
    async with AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=5) as client:
        with pytest.raises(openai.APIStatusError, match="Do not retry"):
            await client.chat.completions.create(model="sim", messages=hello)
    async with AsyncAnthropic(base_url=base, api_key="k", max_retries=5) as claude:
        with pytest.raises(anthropic.APIStatusError) as refused:
            await claude.messages.create(model="sim", max_tokens=9, messages=hello)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["type"] == "billing_error"
    assert len(live.plugin(Watcher).outcomes) == 3


async def test_sessions_are_given_budgets_and_runs_when_they_are_created(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for("sessions", CAPTURE, budgets(run={"max_calls": 3}), "usage")
    for session, calls in (("one", 1), ("two", 9)):
        metadata = {"run_id": "exp", "budget": {"max_calls": calls}}
        made = {"session_id": session, "metadata": metadata}
        assert (await live.client.post("/sessions", json=made)).status_code == 200
    assert [(await ask(live)).status_code for _ in range(2)] == [200, 402]
    codes = [(await ask(live, "two")).status_code for _ in range(3)]
    assert codes == [200, 200, 402]
    found = await told(live, "runs/exp")
    assert (found["spent"]["calls"], found["left"]) == (3, {"max_calls": 0})
    more = await live.client.post("/budgets/runs/exp", json={"max_calls": 4})
    assert more.json()["left"] == {"max_calls": 1}
    assert (await ask(live, "two")).status_code == 200
    for wrong in ({"budget": {"max_call": 1}}, {"run_id": ""}, {"budget": {"max_cost": 1}}):
        refused = await live.client.post("/sessions", json={"metadata": wrong})
        assert refused.status_code == 400, wrong
        assert "metadata" in refused.text or "max_cost" in refused.text


async def test_budgets_survive_a_restart_and_a_dead_process(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    storage = {"path": str(tmp_path / "g.db")}
    plugins = ("sessions", CAPTURE, budgets(session={"max_calls": 3}))
    first = await gateway_for(*plugins, storage=storage)
    await ask(first)
    second = await gateway_for(*plugins, storage=storage)
    answers = await asyncio.gather(*(ask(live) for live in (first, second) * 4))
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [402] * 6
    await told(first)
    assert (await told(second))["spent"]["calls"] == 3
    dead = {"owner": "dead", "at": 1.0}

    def leave_a_reservation(db: Any) -> None:
        db.execute("INSERT INTO budget_owners VALUES (:owner, :at)", dead)
        db.execute("INSERT INTO budget_reserved VALUES ('session', 'late', 'dead', 3, 0, 0, 0)")

    await first.gateway.storage.write(leave_a_reservation)
    assert (await told(first, "sessions/late"))["reserved"]["calls"] == 0
    assert (await ask(first, "late")).status_code == 200


async def test_call_that_no_worker_ran_takes_nothing(gateway_for: GatewayFor) -> None:
    live = await gateway_for(
        "sessions", CAPTURE, budgets(session={"max_calls": 1}), workers=["http://127.0.0.1:1"]
    )
    assert (await ask(live)).status_code == 502
    found = await told(live)
    assert found["spent"]["calls"] == found["reserved"]["calls"] == 0


async def test_sessions_alone_opens_no_budget(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Scoped, "sessions", budgets())
    for scope, status in (("sessions", 403), ("sessions:all", 200), ("admin", 200)):
        for path in ("/budgets/runs/r", "/budgets/sessions/s"):
            headers = {"authorization": scope}
            read = await live.client.get(path, headers=headers)
            put = await live.client.post(path, json={"max_calls": 1}, headers=headers)
            assert (read.status_code, put.status_code) == (status, status), scope


async def test_name_of_a_run_is_checked(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions")
    refused = await ask(live, run="r" * 257)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_run_id")
    assert json.loads(refused.content)["error"]["param"] == "run_id"
