"""What the processes of one gateway say to each other, here all of them in one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cluster import peers
from gateway.cluster.peers import MAX_MESSAGE_BYTES, Peers, Topic
from gateway.errors import ProcessBusy

ECHO, SLOW, NEVER = (Topic("test", name) for name in ("echo", "slow", "never"))


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[list[Peers]]:
    made = [Peers(index, 3, tmp_path) for index in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for one in made:
            await stack.enter_async_context(one)
        yield made


def echoing(one: Peers) -> None:
    async def echo(content: bytes) -> bytes:
        return b"%d:%b" % (one.index, content)

    one.handle(ECHO, echo)


async def test_peers_answer_a_request_in_process_order(three: list[Peers]) -> None:
    for one in three:
        echoing(one)
    large = bytes(300_000)
    assert await three[1].request(ECHO, b"hi") == [b"0:hi", b"2:hi"]
    assert await three[0].request(ECHO, large) == [b"1:" + large, b"2:" + large]


async def test_peer_without_a_working_handler_is_skipped_and_logged(
    three: list[Peers], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: bytes) -> bytes:
        raise ValueError("no")

    echoing(three[2])
    three[1].handle(ECHO, fail)
    assert await three[0].request(ECHO) == [b"2:"]
    assert "could not be answered" in caplog.text
    assert "process 1 did not answer process 0: test echo" in caplog.text
    three[1].handle(ECHO, three[2]._handlers[ECHO])
    assert await three[0].request(ECHO) == [b"2:", b"2:"], "it goes on after a failure"


async def test_slow_peer_is_not_awaited_but_finishes_its_work(
    three: list[Peers], caplog: pytest.LogCaptureFixture
) -> None:
    may_go_on, done = asyncio.Event(), asyncio.Event()

    async def slow(_: bytes) -> bytes:
        await may_go_on.wait()
        done.set()
        return b""

    three[1].handle(SLOW, slow)
    three[2].handle(SLOW, slow)
    assert await three[0].request(SLOW, timeout=0.01) == []
    may_go_on.set()
    await done.wait()
    assert caplog.text.count("did not answer") == 2


async def test_absent_peer_is_skipped_without_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Peers(0, 3, tmp_path) as first:
        async with Peers(2, 3, tmp_path) as third:
            echoing(third)
            assert await first.request(ECHO) == [b"2:"]
        assert await first.request(ECHO) == []
    assert not caplog.text


async def test_peer_replaces_a_killed_process(tmp_path: Path) -> None:
    killed = Peers(1, 2, tmp_path)
    await killed.__aenter__()
    async with Peers(0, 2, tmp_path) as first, Peers(1, 2, tmp_path) as after:
        echoing(after)
        assert await first.request(ECHO) == [b"1:"]
    await killed.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0\0\0\5ab", b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", (MAX_MESSAGE_BYTES + 1).to_bytes(4)],
)
async def test_peer_closes_only_the_connection_that_sends_garbage(
    three: list[Peers], sent: bytes
) -> None:
    assert three[0].folder is not None
    reader, writer = await asyncio.open_unix_connection(three[0].folder / "0.sock")
    writer.write(sent)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    echoing(three[0])
    assert await three[1].request(ECHO) == [b"0:"]


async def test_lock_is_held_by_one_peer_at_a_time(three: list[Peers]) -> None:
    inside: list[int] = []

    async def take(one: Peers) -> None:
        for _ in range(5):
            async with one.lock("it"):
                inside.append(one.index)
                await asyncio.sleep(0)
                assert inside[-1] == one.index
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for one in three:
            group.create_task(take(one))
    assert sorted(inside) == sorted([0, 1, 2] * 5)


async def test_lock_that_is_never_released_is_given_up(
    three: list[Peers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "LOCK_TIMEOUT", 0.05)
    async with three[0].lock("workers"):
        with pytest.raises(ProcessBusy, match="has been changing the workers"):
            async with three[1].lock("workers"):
                pass
    async with three[1].lock("workers"):
        pass


async def test_locks_of_two_names_are_independent(three: list[Peers]) -> None:
    async with three[0].lock("this"), three[1].lock("that"):
        pass


async def test_single_process_has_no_peers() -> None:
    async with Peers() as alone, alone.lock("it"), alone.lock("it"):
        echoing(alone)
        assert await alone.request(ECHO) == []
        assert alone.file("anything") is None


async def test_peer_shuts_down_despite_an_unfinished_handler(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def never(_: bytes) -> bytes:
        begun.set()
        return await asyncio.Future[bytes]()

    async with Peers(0, 2, tmp_path) as first:
        async with Peers(1, 2, tmp_path) as second:
            second.handle(NEVER, never)
            asking = asyncio.create_task(first.request(NEVER))
            await begun.wait()
        assert await asking == []
