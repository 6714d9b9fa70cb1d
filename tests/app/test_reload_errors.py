"""A reload that fails changes nothing, and says all that is wrong."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.gateways.reloadable import (
    Named,
    Other,
    Reloadable,
    Tabled,
    Yielding,
    reloadable,
    write_text,
)
from support.plugins.hook_probes import Keys
from support.plugins.recording_plugin import until

from gateway import Gateway, Migration, Migrations, hookimpl
from gateway.calls.in_flight import InFlight
from gateway.plugins.lifespan import Lifespan

BREAKS = Migrations("breaks", (Migration("breaks", "DROP TABLE nowhere"),))


class Broken:
    @hookimpl
    def migrations(self) -> Migrations:
        return BREAKS


class Pathless:
    """Its routes are none."""

    @hookimpl
    def routes(self, gateway: Gateway) -> list[Any]:
        raise KeyError("pages")


FAILS = (Other, {"name": "late", "fails": True})
NO_CERTIFICATE = {"url": "https://127.0.0.1:9", "tls": {"ca_file": "/nowhere.pem"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


@pytest.fixture
async def running(file: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Reloadable]:
    caplog.set_level("INFO", "reloadable")
    async with reloadable(file, Yielding, workers=["http://127.0.0.1:9"]) as found:
        yield found


def state(running: Reloadable) -> tuple[object, ...]:
    """What a failed reload leaves as it was: the very same objects."""
    gateway = running.live.gateway
    [plugin] = gateway.plugins.loaded
    return gateway.generation, gateway.proxy.chains, plugin.object.config, gateway.workers.all


@pytest.mark.parametrize(
    ("plugins", "fields", "why"),
    [
        ([], {"timeouts": {"connect": -1}}, "gateway.yaml:1: timeouts.connect: expected a number"),
        (["nothing_such"], {}, "gateway.yaml:1: unknown plugin 'nothing_such'"),
        ([(Yielding, {"nme": 1})], {}, 'unknown option; did you mean "name"?'),
        ([(Yielding, {"name": "nobody"})], {}, "plugin Yielding did not start: ValueError: nobody"),
        ([(Named, {"name": "new"}), FAILS], {}, "plugin Other did not start: OSError: the disk"),
        ([(Yielding, {"name": "new"}), FAILS], {}, "plugin Other did not start: OSError: the disk"),
        ([(Yielding, {"name": "new"})], {"workers": [NO_CERTIFICATE]}, "tls: /nowhere.pem"),
        ([Named, Named], {}, "plugin Named is named twice"),
        ([Pathless], {}, "plugin Pathless did not start: KeyError: 'pages'"),
        ([Broken], {}, "plugin Broken did not start: StorageError: "),
    ],
)
async def test_failed_reload_changes_nothing(
    running: Reloadable,
    plugins: list[Any],
    fields: dict[str, Any],
    why: str,
) -> None:
    before = state(running)
    assert why in await running.refused(*plugins, **fields)
    assert state(running) == before
    assert (await running.client.get("/one")).text == "one"


@pytest.mark.parametrize(("plugins", "workers"), [([FAILS], []), ([], [NO_CERTIFICATE])])
async def test_failed_reload_leaves_plugins_it_had_entered(
    running: Reloadable, caplog: pytest.LogCaptureFixture, plugins: list[Any], workers: list[Any]
) -> None:
    await running.refused(Yielding, (Named, {"name": "early"}), *plugins, workers=workers)
    said = [one.getMessage() for one in caplog.records if one.name == "reloadable"]
    assert said == ["early entered", "early left"]


async def test_failed_reload_restores_options_of_a_reconfigured_plugin(
    running: Reloadable, caplog: pytest.LogCaptureFixture
) -> None:
    await running.refused((Yielding, {"name": "two"}), workers=[NO_CERTIFICATE])
    said = [one.getMessage() for one in caplog.records if one.name == "reloadable"]
    assert said == ["one is two now", "two is one now"]


async def test_reload_error_names_every_invalid_line(file: Path, running: Reloadable) -> None:
    write_text(file, "port: high\nplugins:\n  - sessions\ntimeuts: {}\n")
    answer = await running.reload()
    lines = answer.json()["error"]["message"].splitlines()
    assert [line.removeprefix(f"{file.parent}/")[:15] for line in lines[1:]] == [
        "gateway.yaml:1:",
        "gateway.yaml:4:",
    ]
    write_text(file, "[")
    assert ": not YAML" in (await running.reload()).text


async def test_reload_cannot_remove_authentication_on_a_public_host(file: Path) -> None:
    async with reloadable(file, (Keys, {"key": "k"}), host="0.0.0.0") as running:
        running.write(host="0.0.0.0")
        answer = await running.client.post("/admin/reload", headers={"authorization": "k"})
        assert "no plugin authenticates callers" in answer.json()["error"]["message"]
        assert (await running.client.get("/v1/models")).status_code == 401


async def test_reload_removes_authentication_only_if_that_is_confirmed(file: Path) -> None:
    known = {"authorization": "k"}
    async with reloadable(file, (Keys, {"key": "k"}), Named) as running:
        running.write(Named)
        answer = await running.client.post("/admin/reload", headers=known)
        assert answer.status_code == 400
        assert "Keys did" in answer.json()["error"]["message"]
        assert (await running.client.get("/admin/workers")).status_code == 401
        running.write(Named, allow_anonymous=True)
        assert (await running.client.post("/admin/reload", headers=known)).status_code == 200
        assert (await running.client.get("/admin/workers")).status_code == 200


async def test_reload_does_not_retry_a_failed_migration(running: Reloadable) -> None:
    await running.refused(Broken)
    await running.changed(Tabled)


@pytest.mark.parametrize("before", [["trace_capture"], []], ids=["in use", "unused"])
async def test_reload_answers_503_if_the_database_is_locked(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str]
) -> None:
    monkeypatch.setattr("gateway.storage.store.CLOSE_TIMEOUT", 0.1)
    settings: dict[str, Any] = {
        "storage": {"path": str(tmp_path / "gateway.db"), "commit_timeout": 0.1},
    }
    async with reloadable(file, *before, **settings) as running:
        with contextlib.closing(sqlite3.connect(settings["storage"]["path"])) as other:
            other.execute("BEGIN IMMEDIATE")
            running.write(*before, Tabled, **settings)
            answer = await running.reload()
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                503,
                "storage_unavailable",
            )
            assert (await running.client.get("/health")).json()["status"] == "ok"
        assert (await running.reload()).status_code == 200


@contextlib.asynccontextmanager
async def endless() -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield


async def test_lifespan_abandoned_on_entry_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Lifespan("slow", endless()).enter()
    assert asyncio.all_tasks() == before


@contextlib.asynccontextmanager
async def broken_off(wanted: asyncio.Event) -> AsyncIterator[None]:
    async def fail() -> None:
        await wanted.wait()
        raise OSError("the line is down")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        yield


async def test_lifespan_that_ends_too_early_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = asyncio.Event()
    lifespan = Lifespan("mine", broken_off(ends))
    await lifespan.enter()
    ends.set()
    await until(lambda: bool(caplog.messages))
    with pytest.raises(ExceptionGroup):
        await lifespan.leave()
    [record] = caplog.records
    assert (record.levelno, "plugin mine" in record.getMessage()) == (logging.ERROR, True)


async def test_in_flight_waits_only_for_the_named_requests() -> None:
    in_flight: InFlight[str] = InFlight()
    in_flight |= {"a", "b"}
    waiting = asyncio.create_task(in_flight.wait_for(["a", "b", "gone before"]))
    await asyncio.sleep(0)
    in_flight.add("c")
    in_flight.end("a")
    await asyncio.sleep(0)
    assert not waiting.done()
    in_flight.end("b")
    await waiting
    await in_flight.wait_for(["a"])
    assert in_flight == {"c"}
