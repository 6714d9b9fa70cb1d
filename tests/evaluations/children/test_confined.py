"""Commands within limits: what they see, and what becomes of those that go too far."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_plugins.evaluations.children.confined import Command, Failed, Limits, run
from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.children.scrubbing import for_building, scrubbed
from support.plugins.recording_plugin import until

MIB = 1024 * 1024


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def command(folder: Path, code: str, **environment: str) -> Command:
    (folder / "work").mkdir(exist_ok=True)
    return Command(
        name="step",
        arguments=[sys.executable, "-c", code],
        cwd=folder,
        folder=folder,
        environment={"PATH": os.environ["PATH"], **environment},
        written=[folder / "work"],
    )


def limits(**given: float) -> Limits:
    whole = {"timeout": 50.0, "memory": 512 * MIB, "output": MIB, "processes": 20, **given}
    return Limits(
        whole["timeout"], int(whole["memory"]), int(whole["output"]), int(whole["processes"])
    )


async def test_command_that_fails_says_so_with_the_end_of_its_log(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    code = "import sys; print('said'); sys.exit('no such thing')"
    with pytest.raises(Failed, match=r"step: it ended with the status 1: no such thing$"):
        await run(command(tmp_path, code), limits(), threads)
    assert (tmp_path / "step.out").read_text() == "said\n"


SHARED = """
import mmap, time
x = mmap.mmap(-1, 60 << 20)
for _ in range(60):
    x.write(b"1" * (1 << 20))
time.sleep(600)
"""

MANY = """
import time
for n in range(100):
    open(f"work/{n}", "wb").write(b"1" * 20_000)
"""

DELETED = """
import os, time
files = []
for _ in range(20):
    files.append(open("work/x", "wb"))
    os.unlink("work/x")
    files[-1].write(b"1" * 100_000)
    files[-1].flush()
time.sleep(600)
"""

DEEP = """
import os, time
os.chdir("work")
for _ in range(50):
    os.mkdir("x" * 100)
    os.chdir("x" * 100)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("code", "given", "reason"),
    [
        ("import time; time.sleep(600)", {"timeout": 0.3}, "longer than 0.3 s"),
        ("x = bytearray(400 << 20)", {"memory": 200 * MIB}, "MemoryError"),
        (
            "import os, time\nfor _ in range(40): os.fork() or time.sleep(600)\ntime.sleep(600)",
            {"processes": 10},
            "more than 10 processes",
        ),
        ("print('x' * (8 << 20))", {"output": MIB}, "File too large"),
        ("import os; os.abort()", {}, "status 134"),
        (SHARED, {"memory": 40 * MIB}, "more than 41943040 bytes of memory"),
        (
            f"{MANY}time.sleep(600)",
            {},
            r"wrote more than 1048576 bytes in all \(max_output_bytes\)",
        ),
        (MANY, {}, "wrote more than 1048576 bytes in all"),
        (DELETED, {}, "wrote more than 1048576 bytes in all"),
        (DEEP, {}, "folders in which its files cannot be counted"),
    ],
    ids=[
        *("never ends", "eats memory", "forks", "huge output", "aborts", "eats shared memory"),
        *("many files", "many files and an end", "deleted files", "deep folders"),
    ],
)
async def test_fault_11_2_command_that_goes_too_far_is_ended(
    tmp_path: Path,
    threads: ThreadPoolExecutor,
    code: str,
    given: dict[str, float],
    reason: str,
) -> None:
    with pytest.raises(Failed, match=reason):
        await run(command(tmp_path, code), limits(**given), threads)
    assert (tmp_path / "step.out").stat().st_size <= MIB
    remove(tmp_path / "work")
    assert not (tmp_path / "work").exists()


async def test_fault_11_2_memory_of_all_processes_counts(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    code = (
        "import os, time\n[os.fork() for _ in range(3)]\nx = bytearray(b'1') * (60 << 20)\n"
        "time.sleep(600)"
    )
    with pytest.raises(Failed, match="more than 209715200 bytes of memory"):
        await run(command(tmp_path, code), limits(memory=200 * MIB), threads)


LEAVES = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("left", "w").write("here")
        os.execvp("sleep", ["sleep", "{seconds}"])
    os._exit(0)
while not os.path.exists("left"):
    time.sleep(0.01)
"""


def sleepers(seconds: str) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        try:
            line = (place / "cmdline").read_bytes() if place.name.isdecimal() else b""
        except OSError:
            continue
        if line == f"sleep\0{seconds}\0".encode():
            found.append(int(place.name))
    return found


async def test_fault_11_2_processes_that_are_left_behind_are_killed(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    seconds = f"6{os.getpid()}"
    await run(command(tmp_path, LEAVES.format(seconds=seconds)), limits(), threads)
    assert (tmp_path / "left").exists()
    assert sleepers(seconds) == []


async def test_fault_11_2_all_processes_end_if_the_step_is_cancelled(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    seconds = f"7{os.getpid()}"
    code = LEAVES.format(seconds=seconds) + "time.sleep(600)"
    task = asyncio.create_task(run(command(tmp_path, code), limits(), threads))
    await until(lambda: bool(sleepers(seconds)))
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sleepers(seconds) == []
    assert time.monotonic() - begun < 10


def test_fault_11_2_secrets_of_the_gateway_are_not_in_the_environment() -> None:
    environ = {
        "PATH": "/bin",
        "HF_HOME": "/hf",
        "HF_TOKEN": "secret",
        "GATEWAY_STORAGE__PATH": "x",
        "OPENAI_API_KEY": "secret",
        "DOCKER_HOST": "unix:///x",
        "REDIS_URL": "redis://:secret@x",
        "EUROEVAL_GATEWAY_MODE": "phase1",
        "EVAL_KEEP_WORK": "1",
        "EVAL_RESULT_FILE": "/elsewhere",
        "PIP_INDEX_URL": "https://me:secret@index",
    }
    kept = {"PATH", "HF_HOME", "EUROEVAL_GATEWAY_MODE", "EVAL_KEEP_WORK"}
    assert scrubbed(environ).keys() == kept
    assert for_building(environ).keys() == {*kept, "PIP_INDEX_URL"}


async def test_step_sees_only_its_own_processes_if_the_machine_permits_it(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    code = "import os; print(len([one for one in os.listdir('/proc') if one.isdecimal()]))"
    await run(command(tmp_path, code), limits(), threads)
    if (tmp_path / "step.out").read_text() != "2\n":
        pytest.skip("this machine permits no namespaces")
