"""What open pages share: one look for all of them, each part by itself, told as it changes."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.dashboard import Dashboard, panels
from support.gateways.capturing import chat
from support.gateways.watched_pages import EVIL, Offers, bearer, keys, login
from support.runtime.boxes import CHAT

from gateway import Panel, PanelRows, hookimpl
from gateway.testing import GatewayFor, Live, entry

FAST = entry("dashboard", refresh=0.1)


class Slow:
    """A plugin whose panel never comes."""

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        return [Panel(name="slow", title="Slow", scope="monitor", read=self._read)]

    async def _read(self, limit: int) -> PanelRows:
        await asyncio.Event().wait()
        return PanelRows(())


class Failing:
    """A plugin whose hook fails."""

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        raise ValueError("SECRET")


class Odd:
    """A plugin with a cell that JSON cannot hold."""

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        return [Panel(name="odd", title="Odd", scope="monitor", read=self._read)]

    async def _read(self, limit: int) -> PanelRows:
        return PanelRows([{"a": object()}])  # type: ignore[dict-item]


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """Yield the events of a stream: the name of each and its data."""
    name = ""
    async for line in answer.aiter_lines():
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            yield name, value.strip()


async def parts(live: Live) -> Any:
    return (await live.client.get("/dashboard/parts")).json()


async def test_fleet_shows_workers_with_times_and_reasons(gateway_for: GatewayFor) -> None:
    live = await gateway_for(FAST)
    for stream in (False, True, True):
        assert (await live.client.post(CHAT, json=chat(stream=stream))).status_code == 200
    live.gateway.workers.all[0].mark("breaker", "ejected", "5 of 5 calls failed")
    [worker] = (await parts(live))["fleet"]["workers"]
    assert (worker["state"], worker["healthy"], worker["in_flight"]) == ("ejected", False, 0)
    assert worker["conditions"]["breaker"]["reason"] == "5 of 5 calls failed"
    hour = worker["hour"]
    assert (hour["calls"], hour["ttft_p95"] >= hour["ttft_p50"] >= 0) == (3, True)
    assert hour["itl_p50"] is not None


async def test_fault_13_5_each_panel_fails_alone(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "READING", 0.2)
    live = await gateway_for(Offers, Slow, Failing, Odd, FAST)
    found = await parts(live)
    assert found["Offers.fine"]["rows"] == [[EVIL, 1.0, None], ["b", None, True]]
    assert found["Offers.fine"]["columns"] == ["name", "since_at", "other"]
    assert found["Offers.fine"]["total"] == 9
    assert found["Offers.broken"]["error"] == "Offers failed; the log says why"
    assert found["Slow.slow"]["error"] == "Slow took longer than 0.2 s"
    assert found["Odd.odd"]["error"] == "it has values that cannot be shown"
    assert found["fleet"]["healthy"] == 1
    counts = live.gateway.failures.counts
    assert (counts["Failing", "panels"] > 0, counts["Offers", "panels"] > 0) == (True, True)


async def test_stream_tells_a_part_again_only_if_it_has_changed(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Offers, FAST)
    told: list[str] = []
    async with live.client.stream("GET", "/dashboard/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for name, data in events(answer):
            if name == "part" and json.loads(data)["name"] == "load":
                continue  # it has changed at the full minute
            if name == "part":
                told.append(json.loads(data)["name"])
            elif len(told) == 4:
                assert sorted(told) == ["Offers.broken", "Offers.fine", "Offers.log", "fleet"]
                live.gateway.workers.all[0].mark("test", "quarantined", "odd")
            if len(told) == 5:
                assert (told[-1], '"state":"quarantined"' in data) == ("fleet", True)
                break


async def test_stream_ends_with_the_key(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), FAST)
    async with login(live, "watcher") as browser:
        async with browser.stream("GET", "/dashboard/events") as answer:
            async for name, _ in events(answer):
                if name == "seen":
                    (tmp_path / "keys.json").write_text(json.dumps({"keys": []}))
                last = name
    assert last == "login"


async def test_stream_shows_only_what_the_key_may_see(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(keys(tmp_path), Offers, FAST)
    assert (await live.client.get("/dashboard/events")).status_code == 401
    async with live.client.stream("GET", "/dashboard/events", headers=bearer("watcher")) as answer:
        async for name, data in events(answer):
            if name == "seen":
                break
            assert json.loads(data)["name"] != "Offers.log"


async def test_open_pages_share_one_look(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("dashboard", refresh=3600))
    found = await asyncio.gather(*(parts(live) for _ in range(20)))
    board = live.plugin(Dashboard)._board
    assert board is not None
    assert (len(found), board.looks) == (20, 1)


async def test_pages_do_not_hold_up_the_end_of_the_gateway(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("dashboard", refresh=3600))
    async with live.client.stream("GET", "/dashboard/events") as answer:
        stream = events(answer)
        while (await anext(stream))[0] != "seen":
            pass
        await live.gateway.drain(0)
        assert [name async for name, _ in stream] == []
