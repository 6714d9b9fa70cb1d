"""Daemons that refuse, hang or go away; and output that comes faster than it is taken in."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.runtime.drivers.containers.daemon import Daemon, DaemonAway, DaemonError
from gateway_plugins.runtime.drivers.containers.watching import PIECES, Output
from gateway_plugins.runtime.drivers.docker import DockerDriver
from gateway_plugins.runtime.drivers.driver import Launch, StartFailed
from gateway_plugins.runtime.drivers.threads import in_thread
from gateway_plugins.runtime.options import Docker
from support.plugins.recording_plugin import until

REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b'Content-Length: 27\r\n\r\n{"message":"the disk is full"}'.replace(b"27", b"30")
)


def launch(docker: Docker | None) -> Launch:
    return Launch(
        generation=1,
        runtime="gpu",
        model="sim",
        command=("sleep", "1"),
        environment={},
        host="127.0.0.1",
        port=30_000,
        docker=docker,
    )


def ignore(_: bytes) -> None:
    pass


@contextlib.asynccontextmanager
async def answering(
    folder: Path, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[str]:
    """The address of a daemon in this event loop, which so must not be blocked by a driver."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        writer.close()

    async with await asyncio.start_unix_server(serve, folder / "d.sock"):
        yield f"unix://{folder}/d.sock"


async def test_start_without_the_sdk_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    driver = DockerDriver("me")
    with pytest.raises(StartFailed, match=r"pip install 'llm-call-gateway\[docker\]'"):
        await driver.start(launch(Docker(image="i")), ignore)
    await driver.clear("gpu")
    assert "the containers of runtime gpu are not cleared" in caplog.text


async def test_start_of_a_model_without_options_of_a_container_fails() -> None:
    with pytest.raises(StartFailed, match="sim has no `docker`"):
        await DockerDriver("me").start(launch(None), ignore)


async def test_fault_6_07_daemon_is_asked_without_stopping_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("docker")

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSAL)

    async with answering(tmp_path, refuse) as host:
        driver = DockerDriver("me", [host])
        with pytest.raises(StartFailed, match="the disk is full"):
            await driver.start(launch(Docker(image="i", host=host)), ignore)
        await driver.clear("gpu")
        assert "the disk is full" in caplog.text


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_start_without_a_daemon_fails(tmp_path: Path) -> None:
    pytest.importorskip("docker")
    docker = Docker(image="i", host=f"unix://{tmp_path}/none.sock")
    with pytest.raises(StartFailed, match=r"no container for model sim: .*No such file"):
        await DockerDriver("me").start(launch(docker), ignore)


async def test_daemon_that_never_answers_is_away_after_its_time(tmp_path: Path) -> None:
    pytest.importorskip("docker")

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with answering(tmp_path, hang) as host:
        with pytest.raises(DaemonAway, match="timed out"):
            await in_thread(lambda: Daemon(host, timeout=0.2).remove("x"))


async def test_answer_that_is_not_a_daemons_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("docker")

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + b'{"ApiVersion":"1.41"}')

    async with answering(tmp_path, babble) as host:
        with pytest.raises(DaemonError, match="not understood"):
            await in_thread(lambda: Daemon(host).find("x"))


class Endless:
    """Output that never ends. `taken`: how many pieces were read of it."""

    def __init__(self) -> None:
        self.taken = 0
        self.cancelled = False

    def __iter__(self) -> Iterator[bytes]:
        while not self.cancelled:
            self.taken += 1
            yield b"x"

    def cancel(self) -> None:
        self.cancelled = True

    close = cancel


async def test_output_is_not_piled_up_before_an_event_loop_that_is_late() -> None:
    endless = Endless()
    got: list[bytes] = []
    output = Output(asyncio.get_running_loop(), endless, got.append)
    reading = in_thread(output.read)
    before = -1
    while endless.taken != before:  # this loop stands still meanwhile
        before = endless.taken
        time.sleep(0.05)  # noqa: ASYNC251
    assert endless.taken <= PIECES + 1
    assert got == []
    await until(lambda: len(got) > 10 * PIECES)
    output.close()
    await reading
    after = len(got)
    await asyncio.sleep(0)
    assert len(got) == after


async def test_reader_that_waits_for_room_ends_with_its_container() -> None:
    endless = Endless()
    output = Output(asyncio.get_running_loop(), endless, ignore)
    reading = in_thread(output.read)
    while endless.taken <= PIECES:
        time.sleep(0.01)  # noqa: ASYNC251
    output.close()
    await asyncio.wait_for(reading, 30)


async def test_errors_in_threads_reach_who_waits() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await in_thread(fail)
    assert await in_thread(lambda: msgspec.json.encode(1)) == b"1"


def test_thread_may_end_after_its_loop() -> None:
    async def leave() -> None:
        in_thread(lambda: time.sleep(0.2))

    asyncio.run(leave())
    time.sleep(0.4)
