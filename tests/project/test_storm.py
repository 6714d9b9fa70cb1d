"""Workers that fail at random, all at once: what callers are told, and who is asked what."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from storm.conduct import Plan, Report, run
from storm.ledger import Ledger, Verdict, pieces_of, verdict_of
from storm.worker import FaultyWorker
from support.callers.raw_client import RawAnswer

from gateway.config import Failover, Timeouts
from gateway.config import Worker as WorkerConfig
from gateway.testing import GatewayFor, Live, entry

SMALL = Plan(
    calm=0.3, storm=2.0, spell=0.4, rate=150, sessions=60, first_byte=1.5, cooldown=0.15, limit=2
)


async def test_small_storm_finds_no_problems() -> None:
    report = await run(SMALL)
    assert report.problems == []
    assert report.calls > 300
    assert report.ejections
    assert_all_kinds_of_trouble(report)


def assert_all_kinds_of_trouble(report: Report) -> None:
    assert report.verdicts["whole"] > report.calls / 2
    assert "400 storm" in report.said
    # Fewer kinds of errors than faults reach the callers: refused calls go elsewhere, or are held.
    assert len(report.said) > 1


# one worker that takes calls and never answers

SESSIONS = [f"s{number}" for number in range(12)]


@contextlib.asynccontextmanager
async def three_workers() -> AsyncIterator[list[FaultyWorker]]:
    workers = [FaultyWorker(name, 100, Ledger(), 1) for name in "abc"]
    for worker in workers:
        await worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        await asyncio.sleep(0)


async def before(gateway_for: GatewayFor, workers: list[FaultyWorker], *, rerun: bool) -> Live:
    return await gateway_for(
        "sessions",
        entry("circuit_breaker", consecutive_failures=2),
        "backpressure",
        entry("stickiness", load_factor=None),
        workers=[WorkerConfig(url=one.url, worker_id=one.name) for one in workers],
        timeouts=Timeouts(first_byte=2.0),
        failover=Failover(rerun=rerun, budget=1.0),
    )


async def ask(live: Live, session: str) -> httpx.Response:
    return await live.client.post(
        "/v1/chat/completions", json={"messages": []}, headers={"x-session-id": session}
    )


async def ask_all(live: Live, sessions: list[str]) -> dict[str, httpx.Response]:
    answers = await asyncio.gather(*(ask(live, session) for session in sessions))
    return dict(zip(sessions, answers, strict=True))


def served_by(answers: dict[str, httpx.Response]) -> dict[str, str]:
    return {session: answer.headers["x-gateway-worker"] for session, answer in answers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("rerun", [False, True])
async def test_storm_of_one_hung_worker_leaves_other_sessions_in_place(
    gateway_for: GatewayFor, rerun: bool
) -> None:
    async with three_workers() as workers:
        live = await before(gateway_for, workers, rerun=rerun)
        home = served_by(await ask_all(live, SESSIONS))
        assert set(home.values()) == {"a", "b", "c"}
        await workers[0].become("hung")

        during = await ask_all(live, SESSIONS)
        others = {session: one for session, one in during.items() if home[session] != "a"}
        assert served_by(others) == {session: home[session] for session in others}
        assert all(answer.status_code == 200 for answer in others.values())
        assert not any("x-gateway-attempts" in answer.headers for answer in others.values())
        own = [during[session] for session in SESSIONS if home[session] == "a"]
        assert {answer.status_code for answer in own} == {200 if rerun else 504}

        after = await ask_all(live, SESSIONS)
        assert all(answer.status_code == 200 for answer in after.values())
        assert set(served_by(after).values()) == {"b", "c"}
        assert served_by({session: after[session] for session in others}) == served_by(others)


# the storm's own judgement


@pytest.mark.parametrize("stream", [False, True])
def test_storm_verdict_of_classifies_each_ending_of_a_call(stream: bool) -> None:
    def verdict(status: int, body: bytes, *, cut: bool = False) -> Verdict:
        return verdict_of("id", RawAnswer(status, [], body), stream=stream, cut=cut)

    pieces = pieces_of("id", stream=stream)
    assert verdict(200, b"".join(pieces)) == "whole"
    assert verdict(200, b"".join(pieces), cut=True) == "broken off"
    assert verdict(200, b"".join(pieces)[:-1]) == "SHORT"
    assert verdict(200, b"".join(pieces_of("other", stream=stream))) == "SHORT"
    assert verdict(200, b"".join(pieces[:-1])) == "SHORT"
    assert verdict(200, b"event: error\ndata: {}", cut=True) == "told mid-stream"
    assert verdict(503, b'{"error": {}}') == "told"
    assert verdict(503, b"") == "LOST"
