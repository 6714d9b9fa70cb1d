"""Trainers that are killed at random: each trajectory is acknowledged once, and none is lost.

HANDOVER_TRAJECTORIES=100000 pytest -m slow tests/trace_capture/handover -n 0 -s
"""

import asyncio
import os
import sqlite3
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, closing
from pathlib import Path
from random import Random

import pytest
from gateway_plugins.trace_capture.handover.turns import ACKNOWLEDGED, LEASED, read_turns
from gateway_plugins.trace_capture.recording.record import Record
from support.gateways.serving_process import Process, serving
from support.paths import SUPPORT
from support.records.trace_records import Turn, opened, record_of

TRAJECTORIES = int(os.environ.get("HANDOVER_TRAJECTORIES", "2000"))
CLAIMERS = 20
GATEWAYS = 2
BETWEEN_KILLS = 1.5
"""Seconds on average."""

CLAIMER = str(SUPPORT / "trainers" / "claimer.py")


def session(number: int, chance: Random) -> tuple[list[Record], int]:
    """A session of a few calls, each of which goes on from a choice of any earlier one.

    Returns also how many trajectories it has.
    """
    sequences: list[list[int]] = [[number % 50_000]]
    found, before = [], set()
    for place in range(chance.choice([1, 1, 1, 2, 3])):
        origin = chance.randrange(len(sequences))
        before.add(origin)
        prompt = [*sequences[origin], *_tokens(chance, 40)]
        sampled = [_tokens(chance, 20) for _ in range(chance.choice([1, 1, 2]))]
        record = record_of(Turn(prompt, sampled, session_id=f"s{number}"))
        record.timestamp = 1_000.0 + number + place
        record.head.engine_version = number * 10 // TRAJECTORIES
        record.head.choice_reasons = [[] for _ in sampled]
        found.append(record)
        sequences += [prompt + ids for ids in sampled]
    return found, len(sequences) - len(before)


def _tokens(chance: Random, count: int) -> list[int]:
    return [chance.randrange(50_000) for _ in range(count)]


def fill(folder: Path, chance: Random) -> tuple[int, int]:
    """Store sessions with TRAJECTORIES; return how many there are, and their sampled sequences."""
    there = turns = number = 0
    with opened(folder) as file:
        while there < TRAJECTORIES:
            records: list[Record] = []
            while len(records) < 500 and there < TRAJECTORIES:
                new, branches = session(number, chance)
                records += new
                there += branches
                turns += sum(len(record.answer.parts) for record in new)
                number += 1
            file.store(records)
    return there, turns


class Claimers:
    """The trainers, each started again when it was killed."""

    def __init__(self, folder: Path, urls: list[str], chance: Random) -> None:
        self.kills = 0
        self._folder = folder
        self._urls = urls
        self._chance = chance
        self._running: list[asyncio.subprocess.Process] = []

    async def run(self) -> None:
        self._over = False
        async with asyncio.TaskGroup() as group:
            for place in range(CLAIMERS):
                group.create_task(self._keep(place))
            await self._kill()

    async def _keep(self, place: int) -> None:
        path = str(self._folder / f"claimer-{place}.txt")
        while True:
            seed, url = str(self._chance.random()), self._chance.choice(self._urls)
            process = await asyncio.create_subprocess_exec(sys.executable, CLAIMER, url, path, seed)
            self._running.append(process)
            code = await process.wait()
            self._running.remove(process)
            if code == 0:
                self._over = True
                return
            assert code == -9, "it was killed"

    async def _kill(self) -> None:
        while not self._over:
            await asyncio.sleep(self._chance.expovariate(1 / BETWEEN_KILLS))
            if self._running and not self._over:
                self.kills += 1
                self._chance.choice(self._running).kill()


def lines(folder: Path) -> list[list[str]]:
    """What the claimers have written; a line may be cut short by a kill."""
    return [
        line.split()
        for path in folder.glob("claimer-*.txt")
        for line in path.read_text().splitlines()
        if line
    ]


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
async def test_claimers_killed_at_random_acknowledge_each_trajectory_once(tmp_path: Path) -> None:
    chance = Random(7)
    trajectories, sampled = fill(tmp_path, chance)
    started = time.monotonic()
    settings = {"storage__path": str(tmp_path / "traces.db")}
    plugins = ("--plugin", "sessions", "--plugin", "trace_capture")
    async with AsyncExitStack() as stack:
        gateways: list[Process] = [
            await stack.enter_async_context(serving("", *plugins, **settings))
            for _ in range(GATEWAYS)
        ]
        claimers = Claimers(tmp_path, [one.url for one in gateways], chance)
        await claimers.run()
    seconds = time.monotonic() - started
    with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
        states = Counter(dict(db.execute("SELECT state, count(*) FROM handover_claims GROUP BY 1")))
        acked = db.execute(
            "SELECT receipt, taught FROM handover_claims WHERE state = ?", (ACKNOWLEDGED,)
        ).fetchall()
        [(left,)] = db.execute("SELECT count(*) FROM handover_open")
    written = lines(tmp_path)
    counts = Counter(words[0] for words in written)
    print(  # noqa: T201  with -s
        f"\n{trajectories} trajectories with {sampled} turns, {claimers.kills} kills in"
        f" {seconds:.0f} s; claims by state {dict(states)}; {dict(counts)}"
    )
    turns = Counter(turn.key for _, taught in acked for turn in read_turns(taught))
    assert len(turns) == sampled, "none is lost"
    assert set(turns.values()) == {1}, "each is acknowledged once"
    assert len(acked) == trajectories
    assert (left, states[LEASED]) == (0, 0)
    trained = {words[1] for words in written if words[0] == "trained" and len(words) == 6}
    told = Counter(words[1] for words in written if words[0] == "acknowledged")
    receipts = {receipt for receipt, _ in acked}
    assert receipts <= trained, "what counts was trained on"
    assert set(told) <= receipts, "who is told so has it"
    assert set(told.values()) == {1}
    assert claimers.kills > 0
