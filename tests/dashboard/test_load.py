"""Minutes of the last hours, and the calls of all processes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
from gateway_plugins.dashboard.load import load as loads
from gateway_plugins.dashboard.load.calls import Calls
from gateway_plugins.dashboard.load.calls import merged as merged_calls
from gateway_plugins.dashboard.load.load import merged
from gateway_plugins.dashboard.load.minutes import KEPT, Minute, Minutes
from hypothesis import given
from hypothesis import strategies as st
from support.callers.raw_client import RawClient
from support.gateways.batch_doors import COMPLETIONS, PROMPT
from support.gateways.capturing import chat
from support.gateways.serving_processes import a_client_of_each, several
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT

from gateway import Outcome
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of, entry

LOAD = st.builds(
    Minute,
    number=st.integers(0, 5),
    successes=st.integers(0, 9),
    errors=st.integers(0, 9),
    aborts=st.integers(0, 9),
    in_flight=st.integers(0, 9),
    queued=st.none(),
    running=st.none(),
)


def test_minutes_are_few_however_long_the_gateway_runs() -> None:
    now = [0.0]
    minutes = Minutes(lambda: now[0])
    for number in range(1_000):
        now[0] = 60.0 * number
        minutes.ended(Outcome())
        minutes.saw(number % 7)
        minutes.saw(0)
    latest = minutes.latest()
    assert [one.number for one in latest] == list(range(1_000 - KEPT, 1_000))
    assert latest[-1].in_flight == 999 % 7
    now[0] += 60 * (KEPT - 1)
    assert [one.number for one in minutes.latest()] == [999]


@given(st.lists(st.lists(LOAD, max_size=6, unique_by=lambda one: one.number), max_size=4))
def test_minutes_of_several_processes_add_up(several: list[list[Minute]]) -> None:
    given_ = [one for minutes in several for one in minutes]
    names = ("successes", "errors", "aborts", "in_flight")
    before = [sum(getattr(one, name) for one in given_) for name in names]
    found = merged(several)
    assert [sum(getattr(one, name) for one in found) for name in names] == before
    numbers = [one.number for one in found]
    assert numbers == sorted({one.number for one in given_})
    sent = msgspec.msgpack.encode(found)
    assert msgspec.msgpack.decode(sent, type=list[Minute]) == found


def test_calls_of_several_processes_add_up() -> None:
    one = Calls({"realtime": 2, "batch": 1}, 5.0, None, 3.0, 4.0)
    other = Calls({"realtime": 1}, 6.0, 2.0, 1.0)
    assert merged_calls([one, other]) == Calls({"realtime": 3, "batch": 1}, 6.0, 2.0, 3.0, 4.0)


async def test_load_shows_requests_and_the_queue(gateway_for: GatewayFor, monkeypatch: Any) -> None:
    monkeypatch.setattr(loads, "LOOK", 0.01)
    live = await gateway_for("batch", entry("dashboard", refresh=0.1), workers=())
    for _ in range(2):
        assert (await live.client.post(CHAT, json=chat())).status_code == 503
    for _ in range(3):
        assert (await live.client.post(COMPLETIONS, json=PROMPT)).status_code == 202

    async def shown() -> dict[str, Any]:
        found: dict[str, Any] = (await live.client.get("/dashboard/parts")).json()["load"]
        return found

    async with asyncio.timeout(30):
        found = await shown()
        while not any(row[5] == 3 for row in found["minutes"]):
            found = await shown()
    assert found["has_queue"] is True
    assert [sum(row[place] for row in found["minutes"]) for place in (1, 2, 3)] == [0, 2, 0]
    assert found["minutes"][-1][6] == 0


async def _asked(client: RawClient, target: str) -> Any:
    answer = await client.ask("GET", target)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def test_summary_and_load_are_those_of_all_processes(
    tmp_path: Path, simulator: Simulator
) -> None:
    free = asyncio.Event()

    async def held(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await free.wait()
        await connection.write(answer_of(b'{"id": "a", "choices": []}'))

    fast = ("dashboard", {"refresh": 0.1})
    async with (
        ScriptedWorker(held) as worker,
        several(tmp_path / "gateway.yaml", 2, fast, workers=[{"url": worker.url}]) as process,
        a_client_of_each(process, 2) as (first, second),
        process.client() as caller,
    ):
        body = json.dumps(chat()).encode()
        call = asyncio.create_task(caller.ask("POST", CHAT, [], body))
        await until(lambda: len(worker.requests) == 1)
        for client in (first, second):
            summary = await _asked(client, "/ui/summary")
            shown = [summary[name] for name in ("inflight_realtime", "inflight_total")]
            assert shown == [1, 1]
            assert summary["last_runtime_ok_age_s"] is None
        free.set()
        assert (await call).status == 200
        for client in (first, second):
            summary = await _asked(client, "/ui/summary")
            assert (summary["inflight_total"], summary["last_rt_age_s"] >= 0) == (0, True)
            assert summary["last_runtime_ok_age_s"] >= 0
            async with asyncio.timeout(30):
                while True:
                    load = (await _asked(client, "/dashboard/parts"))["load"]
                    if sum(row[1] for row in load["minutes"]) == 1:
                        break
            assert load["realtime_at"] is not None
            assert load["failed_at"] is None
