"""What several processes are made of, where it can be seen without them."""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.metrics.families import Families
from gateway_plugins.metrics.others import merge, written
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.reloadable import write
from support.records.storage_sinks import NOTES, Notes, texts

from gateway import Gateway, Histogram, Sample, StorageUnavailable, hookimpl
from gateway.cluster.peers import Peers
from gateway.config import Config, StorageSettings, load
from gateway.serve.sockets import listening
from gateway.storage import Storage
from gateway.storage.store import FLUSH
from gateway.testing import live


class FailsInOne:
    """Cannot start in process 1."""

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        if gateway.peers.index == 1:
            raise OSError("the disk is full")
        yield


async def test_reload_error_names_the_processes_that_failed(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    write(file, storage={"path": "x.db"})
    gateways = [
        Gateway(load(file), source=lambda: load(file), peers=Peers(index, 3, tmp_path))
        for index in range(2)
    ]
    async with live(gateways[0]) as first, live(gateways[1]):
        write(file, FailsInOne, storage={"path": "x.db"}, model="m")
        answer = await first.client.post("/admin/reload")
        error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "partly_reloaded")
    assert re.search(
        r"process 1: .*the disk is full; process 2: it does not answer", error["message"]
    )
    assert [gateway.config.model for gateway in gateways] == ["m", None]


@pytest.mark.parametrize("persist", [False, True])
async def test_concurrent_worker_changes_do_not_undo_each_other(
    tmp_path: Path, persist: bool
) -> None:
    """Made at the same moment, each at another process."""
    file = tmp_path / "gateway.yaml"
    worker = {"worker_id": "w", "url": "http://a:1"}
    write(
        file,
        storage={"path": str(tmp_path / "x.db"), "persist_workers": persist},
        workers=[worker],
    )
    gateways = [Gateway(load(file), peers=Peers(index, 3, tmp_path)) for index in range(3)]
    async with live(gateways[0]) as a, live(gateways[1]) as b, live(gateways[2]) as c:
        target = "/admin/workers/w"
        answers = await asyncio.gather(
            a.client.patch(target, json={"weight": 2.5}),
            b.client.patch(target, json={"models": ["m"]}),
            c.client.post(f"{target}/drain"),
            a.client.post("/admin/workers", json={"url": "http://b:1", "worker_id": "x"}),
            b.client.post("/admin/workers", json={"url": "http://c:1", "worker_id": "x"}),
        )
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 409]
        overlays = [gateway.workers.overlay for gateway in gateways]
        assert overlays[0] == overlays[1] == overlays[2]
        found = gateways[0].workers.find("w")
        assert found is not None
        assert (found.weight, found.models) == (2.5, frozenset({"m"}))
        assert found.info().state == "draining"


MERGED: Mapping[str, Callable[[list[int]], int]] = {"sum": sum, "max": max, "min": min}


def sample_of(kind: str, merged: str, value: float) -> Sample:
    labels = {"of": merged}
    if kind == "counter":
        return Sample("gateway_a_total", "counter", value, "a", labels)
    if kind == "gauge":
        return Sample(f"gateway_{merged}_of", "gauge", value, "b", labels, merged)  # type: ignore[arg-type]
    histogram = Histogram((1.0, 10.0))
    histogram.add(value)
    return Sample("gateway_c_seconds", "histogram", histogram, "c", labels)


ways = st.tuples(
    st.sampled_from(["counter", "gauge", "histogram"]), st.sampled_from(["sum", "max", "min"])
)
values = st.dictionaries(ways, st.integers(0, 100), max_size=9)


@given(st.lists(values, min_size=1, max_size=4))
def test_scrape_is_the_same_from_every_process(
    processes: list[dict[tuple[str, str], int]],
) -> None:
    def families(of: dict[tuple[str, str], int]) -> Families:
        made = Families()
        made.add([sample_of(*way, value) for way, value in of.items()])
        return made

    told = []
    for index, own in enumerate(processes):
        others = [written(families(one)) for place, one in enumerate(processes) if place != index]
        found = families(own)
        merge(found, others)
        told.append({family.name: written_series(family.series) for family in found})
    assert all(one == told[0] for one in told)
    for kind, merged in {way for one in processes for way in one}:
        all_values = [one[kind, merged] for one in processes if (kind, merged) in one]
        if kind == "gauge":
            assert told[0][f"gateway_{merged}_of"] == {(merged,): MERGED[merged](all_values)}
        elif kind == "counter":
            assert told[0]["gateway_a_total"][(merged,)] == sum(all_values)
        else:
            assert told[0]["gateway_c_seconds"][(merged,)][1] == sum(all_values)


def written_series(
    series: dict[tuple[str, ...], float | Histogram],
) -> dict[tuple[str, ...], Any]:
    return {
        values: (value.counts, value.sum) if isinstance(value, Histogram) else value
        for values, value in series.items()
    }


async def test_storage_serializes_writes_between_processes_if_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    folder.mkdir()
    storage = Storage(
        Config(storage=StorageSettings(path=str(tmp_path / "x.db"))), [NOTES], Peers(0, 2, folder)
    )
    notes = Notes()
    await storage.open()
    fd = os.open(folder / "storage.turn", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    committing = asyncio.create_task(storage.commit(notes.entries("late")))
    await asyncio.wait([committing], timeout=0.05)
    assert not notes.transactions
    os.close(fd)
    await committing
    shutil.rmtree(folder)
    await storage.commit(notes.entries("later"))
    await storage.close()
    assert texts(tmp_path / "x.db") == ["late", "later"]


async def test_flush_covers_all_processes(tmp_path: Path) -> None:
    peers = [Peers(index, 2, tmp_path) for index in range(2)]
    settings = Config(storage=StorageSettings(path=str(tmp_path / "x.db")))
    storages = [Storage(settings, [NOTES], one) for one in peers]
    notes = Notes()
    async with peers[0], peers[1]:
        for one in storages:
            await one.open()
        adding = asyncio.create_task(storages[1].commit(notes.entries("there")))
        await asyncio.sleep(0)
        await storages[0].flush()
        assert texts(tmp_path / "x.db") == ["there"]
        await adding

        async def refuse(_: bytes) -> bytes:
            return b"no disk"

        peers[1].handle(FLUSH, refuse)
        with pytest.raises(StorageUnavailable, match="no disk"):
            await storages[0].flush()
        for one in storages:
            await one.close()


def _is_taken(error: OSError) -> bool:
    return error.errno == errno.EADDRINUSE


def test_port_is_shared_only_by_processes_of_one_gateway() -> None:
    sockets = listening("127.0.0.1", 0, 3)
    ports = {one.getsockname()[1] for own in sockets for one in own}
    assert len(ports) == 1
    for own in sockets:
        own[0].listen()
    [port] = ports
    with pytest.raises(OSError, check=_is_taken):
        listening("127.0.0.1", port, 2)
    with pytest.raises(OSError, check=_is_taken):
        socket.create_server(("127.0.0.1", port), reuse_port=False)
    for [one] in sockets:
        one.close()


SUPERVISED = """
import logging, os, sys
from gateway.serve import supervisor
supervisor.PAUSES = (0.1, 0.2)
logging.basicConfig(stream=sys.stdout, format="%(message)s")

def role(post):
    os.write(post.ready, bytes([post.index]))
    if post.index == 1:
        return 7
    os.read(post.life, 1)
    return 0

class Four(supervisor.Supervisor):
    def _replace(self, pid, child, code):
        super()._replace(pid, child, code)
        self.ends = getattr(self, "ends", 0) + 1
        if self.ends == 4:
            os.kill(os.getpid(), 15)

nothing = lambda: None
sys.exit(Four(role, 2, reloads=False, serving=nothing, closing=nothing).run())
"""


@pytest.mark.slow
async def test_supervisor_replaces_a_failing_process_with_growing_delays() -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISED, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await running.communicate()
    pauses = re.findall(rb"process 1 \(pid \d+\) ended with status 7; replaced after (.*) s", out)
    assert pauses == [b"0.0", b"0.1", b"0.2", b"0.2"]
    assert running.returncode == 128 + signal.SIGTERM
