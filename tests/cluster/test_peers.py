"""What the processes of one gateway say to each other, here all of them in one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cluster.peers import MOST, Siblings


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[list[Siblings]]:
    made = [Siblings(index, 3, tmp_path) for index in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for one in made:
            await stack.enter_async_context(one)
        yield made


def echoing(one: Siblings) -> None:
    async def echo(content: bytes) -> bytes:
        return b"%d:%b" % (one.index, content)

    one.answer("echo", echo)


async def test_all_others_answer_in_order(three: list[Siblings]) -> None:
    for one in three:
        echoing(one)
    large = bytes(300_000)
    assert await three[1].ask("echo", b"hi") == [b"0:hi", b"2:hi"]
    assert await three[0].ask("echo", large) == [b"1:" + large, b"2:" + large]


async def test_the_one_that_fails_or_knows_no_answer_says_nothing(
    three: list[Siblings], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: bytes) -> bytes:
        raise ValueError("no")

    echoing(three[2])
    three[1].answer("echo", fail)
    assert await three[0].ask("echo") == [b"2:"]
    assert "could not be answered" in caplog.text
    assert "process 1 did not answer process 0: echo" in caplog.text
    three[1].answer("echo", three[2]._answers["echo"])
    assert await three[0].ask("echo") == [b"2:", b"2:"], "it goes on after a failure"


async def test_who_is_too_slow_is_not_waited_for_and_still_does_it(
    three: list[Siblings], caplog: pytest.LogCaptureFixture
) -> None:
    may_go_on, done = asyncio.Event(), asyncio.Event()

    async def slow(_: bytes) -> bytes:
        await may_go_on.wait()
        done.set()
        return b""

    three[1].answer("slow", slow)
    three[2].answer("slow", slow)
    assert await three[0].ask("slow", wait=0.01) == []
    may_go_on.set()
    await done.wait()
    assert caplog.text.count("did not answer") == 2


async def test_who_is_not_there_is_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Siblings(0, 3, tmp_path) as first:
        async with Siblings(2, 3, tmp_path) as third:
            echoing(third)
            assert await first.ask("echo") == [b"2:"]
        assert await first.ask("echo") == []
    assert not caplog.text


async def test_the_place_of_a_killed_one_is_taken(tmp_path: Path) -> None:
    killed = Siblings(1, 2, tmp_path)
    await killed.__aenter__()
    async with Siblings(0, 2, tmp_path) as first, Siblings(1, 2, tmp_path) as after:
        echoing(after)
        assert await first.ask("echo") == [b"1:"]
    await killed.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0\0\5ab", b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", (MOST + 1).to_bytes(4)]
)
async def test_nonsense_ends_its_connection_alone(three: list[Siblings], sent: bytes) -> None:
    assert three[0].folder is not None
    reader, writer = await asyncio.open_unix_connection(three[0].folder / "0.sock")
    writer.write(sent)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    echoing(three[0])
    assert await three[1].ask("echo") == [b"0:"]


async def test_only_one_has_its_turn(three: list[Siblings]) -> None:
    inside: list[int] = []

    async def take(one: Siblings) -> None:
        for _ in range(5):
            async with one.turn("it"):
                inside.append(one.index)
                await asyncio.sleep(0)
                assert inside[-1] == one.index
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for one in three:
            group.create_task(take(one))
    assert sorted(inside) == sorted([0, 1, 2] * 5)


async def test_turns_of_two_names_are_two(three: list[Siblings]) -> None:
    async with three[0].turn("this"), three[1].turn("that"):
        pass


async def test_one_alone_has_nobody_to_ask() -> None:
    async with Siblings() as alone, alone.turn("it"), alone.turn("it"):
        echoing(alone)
        assert await alone.ask("echo") == []
        assert alone.file("anything") is None


async def test_who_leaves_is_not_held_up_by_what_it_answers(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def never(_: bytes) -> bytes:
        begun.set()
        return await asyncio.Future[bytes]()

    async with Siblings(0, 2, tmp_path) as first:
        async with Siblings(1, 2, tmp_path) as second:
            second.answer("never", never)
            asking = asyncio.create_task(first.ask("never"))
            await begun.wait()
        assert await asking == []
