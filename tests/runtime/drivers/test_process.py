"""The driver of processes: start, end, exit status, output, and what may be left."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from time import monotonic

import pytest
from gateway_plugins.runtime.drivers.driver import StartFailed
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.process import ProcessDriver
from support.ports import free_port
from support.runtime.small_engines import Printed, descriptors, gone, launch, zombies

pytestmark = pytest.mark.slow

PLAIN = "say('leader', os.getpid()); stay()"


@pytest.fixture
def driver(tmp_path: Path) -> ProcessDriver:
    return ProcessDriver(str(tmp_path))


async def test_an_engine_is_a_leader_of_its_own_session_without_standard_input(
    driver: ProcessDriver,
) -> None:
    program = "say('session', os.getsid(0) == os.getpid(), repr(sys.stdin.read())); stay()"
    printed = Printed()
    began = launch(program)
    engine = await driver.start(began, printed)
    assert await printed.line("session") == "True ''"
    assert engine.url == f"http://127.0.0.1:{began.port}"
    assert engine.identity.startswith("process ")
    await engine.stop(0)


async def test_an_engine_inherits_no_descriptor_that_came_with_the_gateway(
    driver: ProcessDriver,
) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    ours = os.readlink(f"/proc/self/fd/{writing}")  # noqa: PTH115  of /proc, which does not block
    program = f"""
places = ['/proc/self/fd/' + name for name in os.listdir('/proc/self/fd')]
say('inherited', {ours!r} in [os.readlink(one) for one in places if os.path.exists(one)])
stay()
"""
    printed = Printed()
    try:
        engine = await driver.start(launch(program), printed)
        inherited = await printed.line("inherited")
        await engine.stop(0)
    finally:
        os.close(reading)
        os.close(writing)
    assert inherited == "False"


async def test_stop_asks_and_lets_the_engine_end_by_itself(driver: ProcessDriver) -> None:
    program = """
def end(*_):
    say('bye')
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
say('leader', os.getpid())
stay()
"""
    printed = Printed()
    engine = await driver.start(launch(program), printed)
    pid = await printed.pid("leader")
    await engine.stop(30)
    assert not alive(pid)
    assert printed.data.endswith(b"bye\n")
    ended = await engine.ended()
    assert (ended.code, ended.oom_killed) == (3, False)
    await engine.stop(30)


async def test_stop_kills_after_the_grace(driver: ProcessDriver) -> None:
    program = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {PLAIN}"
    printed = Printed()
    engine = await driver.start(launch(program), printed)
    await printed.line("leader")
    before = monotonic()
    await engine.stop(0.3)
    assert 0.3 <= monotonic() - before < 30
    assert (await engine.ended()).code == 137


async def test_a_later_stop_may_shorten_the_grace(driver: ProcessDriver) -> None:
    program = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {PLAIN}"
    printed = Printed()
    engine = await driver.start(launch(program), printed)
    await printed.line("leader")
    patient = asyncio.create_task(engine.stop(600))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await engine.stop(0)
        await patient


async def test_a_cancelled_stop_goes_on(driver: ProcessDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch(PLAIN), printed)
    pid = await printed.pid("leader")
    stopping = asyncio.create_task(engine.stop(10))
    await asyncio.sleep(0)
    stopping.cancel()
    await gone(pid)
    assert (await engine.ended()).code == 128 + signal.SIGTERM


async def test_a_stopped_process_is_ended_too(driver: ProcessDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch(PLAIN), printed)
    pid = await printed.pid("leader")
    os.kill(pid, signal.SIGSTOP)
    await engine.stop(0.1)
    assert not alive(pid)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("pass", 0),
    ],
)
async def test_the_exit_status_is_as_a_shell_shows_it(
    driver: ProcessDriver, program: str, code: int
) -> None:
    engine = await driver.start(launch(program), Printed())
    ended = await engine.ended()
    assert (ended.code, ended.oom_killed) == (code, False)
    assert await engine.ended() == ended
    await engine.stop(0)


async def test_all_that_an_engine_prints_before_its_end_reaches_the_log(
    driver: ProcessDriver,
) -> None:
    program = "say('a' * 300_000); print('last words', file=sys.stderr)"
    printed = Printed()
    engine = await driver.start(launch(program), printed)
    await engine.ended()
    assert printed.data == b"a" * 300_000 + b"\nlast words\n"


async def test_a_flood_of_output_is_read_in_bursts(driver: ProcessDriver) -> None:
    program = "sys.stdout.write('a' * (3 << 20))"
    printed = Printed()
    before = monotonic()
    engine = await driver.start(launch(program), printed)
    await engine.ended()
    assert len(printed.data) == 3 << 20
    assert monotonic() - before > 0.45


async def test_nothing_is_left_of_many_engines(driver: ProcessDriver) -> None:
    async def one() -> None:
        printed = Printed()
        engine = await driver.start(launch(f"child(stay); {PLAIN}"), printed)
        await printed.line("leader")
        await engine.stop(0)

    await one()
    before = descriptors()
    for _ in range(5):
        await one()
    assert descriptors() == before
    assert zombies() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failed_start_leaves_nothing(driver: ProcessDriver, tmp_path: Path) -> None:
    async def fail(command: tuple[str, ...], says: str, **environment: str) -> None:
        with pytest.raises(StartFailed, match=says):
            await driver.start(launch(command, environment=environment), Printed())

    plain = tmp_path / "plain"
    plain.touch()
    await fail((str(plain),), "cannot be started: .*[Pp]ermission")
    before = descriptors()
    for _ in range(3):
        await fail((str(plain),), "cannot be started: .*[Pp]ermission")
        await fail(("/no/such/program",), "no/such/program cannot be started: .*No such file")
        await fail((sys.executable, "a\0b"), "a null byte")
        await fail((sys.executable,), "a null byte", A="a\0b")
    assert descriptors() == before
    assert zombies() == []


async def test_no_engine_starts_at_an_address_that_is_in_use(driver: ProcessDriver) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"listen on 127.0.0.1:{port}: .* in use"):
            await driver.start(launch(PLAIN, port=port), Printed())


async def test_a_cancelled_start_leaves_nothing(driver: ProcessDriver, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = f"open({str(file)!r}, 'w').write(str(os.getpid())); stay()"
    for turns in range(1, 12):
        starting = asyncio.create_task(driver.start(launch(program), Printed()))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        try:
            engine = await starting
        except asyncio.CancelledError:
            continue
        await engine.stop(0)
    assert not file.exists() or not alive(int(file.read_text() or 0))
    assert zombies() == []


async def test_programs_are_found_by_the_path_of_the_engine(
    driver: ProcessDriver, tmp_path: Path
) -> None:
    program = tmp_path / "my-engine"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    printed = Printed()
    began = launch(("my-engine",), environment={"PATH": str(tmp_path)})
    await (await driver.start(began, printed)).ended()
    assert printed.data == b"here\n"
