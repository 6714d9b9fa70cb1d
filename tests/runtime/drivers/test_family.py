"""Fault 6.11: whatever an engine has forked ends with it."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.process import ProcessDriver
from support.runtime.small_engines import Printed, gone, launch, zombies

pytestmark = pytest.mark.slow

STUBBORN = """
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say('child', os.getpid())
    stay()
"""

DAEMON = """
def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    say('daemon', os.getpid(), os.getsid(0), os.getppid())
    stay()
"""

LEADER = "say('leader', os.getpid()); stay()"

SET_CHILD_SUBREAPER = 36


@pytest.fixture
def driver(tmp_path: Path) -> ProcessDriver:
    return ProcessDriver(str(tmp_path))


async def test_fault_6_11_a_child_that_ignores_sigterm_is_killed(driver: ProcessDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch(f"{STUBBORN}\nchild(stubborn); {LEADER}"), printed)
    child, leader = await printed.pid("child"), await printed.pid("leader")
    await engine.stop(0.2)
    assert not alive(child)
    assert not alive(leader)
    assert (await engine.ended()).code == 128 + signal.SIGTERM


async def test_fault_6_11_children_end_after_a_kill_of_their_leader(driver: ProcessDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch(f"{STUBBORN}\nchild(stubborn); {LEADER}"), printed)
    child, leader = await printed.pid("child"), await printed.pid("leader")
    os.kill(leader, signal.SIGKILL)
    async with asyncio.timeout(30):
        ended = await engine.ended()
    assert ended.code == 137
    assert not ended.oom_killed
    assert not alive(child)


async def test_fault_6_11_a_daemon_that_left_the_session_ends(driver: ProcessDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch(f"{DAEMON}\nchild(daemon); {LEADER}"), printed)
    daemon, session, _ = map(int, (await printed.line("daemon")).split())
    leader = await printed.pid("leader")
    assert session != leader
    await engine.stop(10)
    assert not alive(daemon)


async def test_fault_6_11_a_daemon_ends_after_a_kill_of_the_leader(driver: ProcessDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch(f"{DAEMON}\nchild(daemon); {LEADER}"), printed)
    daemon = int((await printed.line("daemon")).split()[0])
    os.kill(await printed.pid("leader"), signal.SIGKILL)
    async with asyncio.timeout(30):
        await engine.ended()
    assert not alive(daemon)


SHARING = """
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=1000)
say('memory', memory.name)
"""


def shared(name: str) -> bool:
    return Path("/dev/shm", name).exists()


@pytest.mark.slow  # Python deletes it in its own time, which a busy machine makes long
@pytest.mark.parametrize("killed", [False, True])
async def test_fault_6_11_shared_memory_is_deleted(driver: ProcessDriver, killed: bool) -> None:
    printed = Printed()
    engine = await driver.start(launch(f"{SHARING}\nchild(stay); {LEADER}"), printed)
    memory = await printed.line("memory")
    leader = await printed.pid("leader")
    assert shared(memory)
    if killed:
        os.kill(leader, signal.SIGKILL)
    else:
        await engine.stop(0)
    await engine.ended()
    assert not shared(memory)


async def test_children_without_the_mark_are_found_by_their_parent(driver: ProcessDriver) -> None:
    command = ["sh", "-c", "echo bare $$; exec sleep 600"]
    program = f"""
def bare():
    os.setsid()
    os.execve('/bin/sh', {command}, {{}})
child(bare)
{LEADER}
"""
    printed = Printed()
    engine = await driver.start(launch(program), printed)
    pid = await printed.pid("bare")
    await printed.line("leader")
    await engine.stop(10)
    assert not alive(pid)


async def test_an_engine_of_another_generation_runs_on(driver: ProcessDriver) -> None:
    one, other = Printed(), Printed()
    first = await driver.start(launch(LEADER, generation=1), one)
    second = await driver.start(launch(LEADER, generation=11), other)
    pids = await one.pid("leader"), await other.pid("leader")
    await first.stop(10)
    assert [alive(pid) for pid in pids] == [False, True]
    await second.stop(10)


async def test_the_mark_survives_programs_that_rename_themselves(driver: ProcessDriver) -> None:
    printed = Printed()
    program = "say('noenv', os.environ['SPT_NOENV'], os.environ['GATEWAY_RUNTIME']); stay()"
    engine = await driver.start(launch(program, generation=7), printed)
    noenv, mark = (await printed.line("noenv")).split()
    assert noenv == "1"
    assert mark.endswith("/gpu/7/")
    await engine.stop(0)


@pytest.fixture
def init() -> Iterator[None]:
    """This process gets orphans as its children, as process 1 of a container does."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def test_orphans_are_no_zombies_of_a_gateway_that_is_process_1(
    driver: ProcessDriver, init: None
) -> None:
    printed = Printed()
    program = f"{DAEMON}\nos.waitpid(child(daemon), 0); {LEADER}"
    engine = await driver.start(launch(program), printed)
    await printed.line("daemon")
    os.kill(await printed.pid("leader"), signal.SIGKILL)
    await engine.ended()
    assert zombies() == []


GATEWAY = """
import asyncio, sys
from support.runtime.small_engines import launch
from gateway_plugins.runtime.drivers.process import ProcessDriver
async def main():
    driver = ProcessDriver(sys.argv[1])
    def show(data): print(data.decode(), end="", flush=True)
    await driver.start(launch(sys.argv[2], runtime=sys.argv[3]), show)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def left_by_a_killed_gateway(owner: str, runtime: str) -> int:
    """Return the process of an engine whose gateway was killed."""
    ignoring = f"signal.signal(signal.SIGPIPE, signal.SIG_IGN); {LEADER}"
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, owner, ignoring, runtime),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert gateway.stdout is not None
    pid = int((await gateway.stdout.readline()).split()[1])
    gateway.kill()
    await gateway.communicate()
    assert alive(pid)
    return pid


async def test_clear_ends_what_a_killed_gateway_left_of_this_runtime_only(tmp_path: Path) -> None:
    mine, other = str(tmp_path / "mine.db"), str(tmp_path / "mine.db2")
    left = await left_by_a_killed_gateway(mine, "gpu")
    elsewhere = await left_by_a_killed_gateway(mine, "gpu-2")
    strangers = await left_by_a_killed_gateway(other, "gpu")
    await ProcessDriver(mine).clear("gpu")
    assert [alive(pid) for pid in (left, elsewhere, strangers)] == [False, True, True]
    await ProcessDriver(mine).clear("gpu-2")
    await ProcessDriver(other).clear("gpu")
    await gone(elsewhere)
    await gone(strangers)
