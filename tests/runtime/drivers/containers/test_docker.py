"""Engines in containers of a real Docker daemon, which the tests start themselves."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gateway_plugins.runtime.drivers.docker import Container, DockerDriver
from gateway_plugins.runtime.drivers.driver import Exit, Launch, StartFailed
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.ports import free_port
from support.runtime.boxes import CHAT, QUICK, box, model
from support.workers.docker_daemon import DockerDaemon

from gateway.testing import GatewayFor

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

OWNER = "gateway of the tests"
SIMULATE = "from gateway.cli import main; main()"


@pytest.fixture
async def driver(daemon: DockerDaemon) -> AsyncIterator[DockerDriver]:
    driver = DockerDriver(OWNER, [daemon.host], patience=2)
    yield driver
    await driver.clear("gpu")
    assert labels_of(daemon, "gateway-runtime=gpu") == []


def launch(daemon: DockerDaemon, *command: str, **changes: Any) -> Launch:
    plain = Launch(
        generation=1,
        runtime="gpu",
        model="sim",
        command=command,
        environment={"PYTHONPATH": ":".join(sys.path)},
        host="127.0.0.1",
        port=free_port(),
        docker=daemon.options(),
    )
    return msgspec.structs.replace(plain, **changes)


def ignore(_: bytes) -> None:
    pass


def labels_of(daemon: DockerDaemon, label: str) -> list[dict[str, str]]:
    """The labels of all containers that have this one."""
    with daemon.client() as client:
        found = client.api.containers(all=True, filters={"label": label})
    return [dict(one["Labels"]) for one in found]


def process_of(daemon: DockerDaemon, container: str) -> int:
    with daemon.client() as client:
        return int(client.api.inspect_container(container)["State"]["Pid"])


def commands() -> list[str]:
    """The command lines of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode())
    return found


async def test_engine_in_a_container_answers_at_its_url_and_is_gone_after_stop(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    printed: list[bytes] = []
    asked = launch(daemon)
    command = (sys.executable, "-c", SIMULATE, "simulate", "--port", str(asked.port))
    engine = await driver.start(
        msgspec.structs.replace(asked, command=command, generation=41), printed.append
    )
    await until(lambda: b"Uvicorn running" in b"".join(printed))
    async with httpx.AsyncClient(base_url=engine.url) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "sim"
    (labels,) = labels_of(daemon, "gateway-generation=41")
    assert labels["gateway-owner"] == OWNER
    with daemon.client() as client:
        assert client.api.inspect_container("gateway-gpu")["Id"] == engine.identity
    await engine.stop(10)
    assert (await engine.ended()).code in (0, 143)
    assert labels_of(daemon, "gateway-generation=41") == []


async def test_end_comes_with_its_exit_code_after_all_that_was_printed(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    printed: list[bytes] = []
    asked = launch(daemon, "sh", "-c", "seq 300000; exit 3")
    engine = await driver.start(asked, printed.append)
    assert await engine.ended() == Exit(3)
    assert b"".join(printed).decode().split() == [str(one) for one in range(1, 300_001)]
    assert await engine.ended() == Exit(3)
    await engine.stop(1)
    await engine.stop(1)


async def test_fault_6_11_stop_ends_children_that_ignore_sigterm(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    printed: list[bytes] = []
    deaf = f"trap '' TERM; sleep 98765.{os.getpid()} & echo up; wait"
    engine = await driver.start(launch(daemon, "sh", "-c", deaf), printed.append)
    await until(lambda: printed == [b"up\n"])
    assert any(f"98765.{os.getpid()}" in one for one in commands())
    await asyncio.gather(engine.stop(1), engine.stop(1))
    assert await engine.ended() == Exit(137)
    assert not any(f"98765.{os.getpid()}" in one for one in commands())


async def test_fault_6_01_engine_killed_from_outside_is_seen_as_an_exit(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    engine = await driver.start(launch(daemon, "sleep", "1000"), ignore)
    os.kill(process_of(daemon, engine.identity), signal.SIGKILL)
    assert await engine.ended() == Exit(137)


async def test_engine_without_memory_is_told_as_killed_for_it(
    daemon: DockerDaemon, driver: DockerDriver, tmp_path: Path
) -> None:
    greedy = "while [ ! -e /given/go ]; do sleep 0.1; done; tail /dev/zero"
    asked = launch(daemon, "sh", "-c", greedy, docker=daemon.options(f"{tmp_path}:/given:ro"))
    engine = await driver.start(asked, ignore)
    with daemon.client() as client:
        client.api.update_container(engine.identity, mem_limit="32m", memswap_limit="32m")
    (tmp_path / "go").touch()
    assert await engine.ended() == Exit(137, oom_killed=True)


async def test_clear_removes_what_a_killed_gateway_left_and_nothing_else(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, daemon.host, OWNER, "gpu"),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert killed.stdout is not None
    assert await killed.stdout.readline() == b"started\n"
    killed.kill()
    await killed.wait()
    assert len(labels_of(daemon, f"gateway-owner={OWNER}")) == 1
    stranger = DockerDriver("another gateway", [daemon.host])
    other = await stranger.start(launch(daemon, "sleep", "1000", runtime="other"), ignore)
    mine = await driver.start(launch(daemon, "sleep", "1000", runtime="second"), ignore)
    await driver.clear("gpu")
    left = labels_of(daemon, "gateway-owner")
    assert sorted(one["gateway-runtime"] for one in left) == ["other", "second"]
    await other.stop(0)
    await mine.stop(0)


async def test_start_takes_the_place_of_an_own_container_but_not_of_a_foreign_one(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    stranger = DockerDriver("another gateway", [daemon.host])
    foreign = await stranger.start(launch(daemon, "sleep", "1000"), ignore)
    with pytest.raises(StartFailed, match="gateway-owner is another gateway"):
        await driver.start(launch(daemon, "sleep", "1000"), ignore)
    assert process_of(daemon, foreign.identity)
    await foreign.stop(0)
    first = await driver.start(launch(daemon, "sleep", "1000"), ignore)
    second = await driver.start(launch(daemon, "sleep", "1000", generation=2), ignore)
    assert (await first.ended()).code == 137
    assert [one["gateway-generation"] for one in labels_of(daemon, "gateway-runtime=gpu")] == ["2"]
    assert first.identity != second.identity


async def test_engines_that_will_sleep_live_beside_each_other(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    asked = launch(daemon, "sleep", "1000", resident=True)
    engines = [
        await driver.start(msgspec.structs.replace(asked, model=name), ignore) for name in "ab"
    ]
    assert all(process_of(daemon, engine.identity) for engine in engines)


@pytest.mark.parametrize(
    ("command", "changes", "says"),
    [
        ("no-such-program", {}, "no-such-program"),
        ("sleep", {"image": "not-here:1"}, "not-here:1"),
        ("sleep", {"gpus": True}, "gpu"),
        ("sleep", {"volumes": ("nonsense",)}, "nonsense"),
        ("sleep", {"shm_size": "much"}, "much"),
        ("sleep", {"network": "nowhere"}, "nowhere"),
    ],
)
async def test_failed_start_says_why_and_leaves_nothing(
    daemon: DockerDaemon,
    driver: DockerDriver,
    caplog: pytest.LogCaptureFixture,
    command: str,
    changes: dict[str, Any],
    says: str,
) -> None:
    caplog.set_level("DEBUG")
    options = msgspec.structs.replace(daemon.options(), **changes)
    asked = launch(daemon, command, docker=options, environment={"HF_TOKEN": "hf_secret"})
    with pytest.raises(StartFailed, match=says) as failed:
        await driver.start(asked, ignore)
    assert labels_of(daemon, "gateway-runtime=gpu") == []
    assert "hf_secret" not in caplog.text + str(failed.value)
    assert "hf_secret" not in (daemon.folder / "log").read_text()


async def test_fault_6_02_engine_gets_its_secrets_and_no_log_does(
    daemon: DockerDaemon, driver: DockerDriver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    printed: list[bytes] = []
    asked = launch(daemon, "sh", "-c", "echo ${#HF_TOKEN}", environment={"HF_TOKEN": "hf_secret"})
    engine = await driver.start(asked, printed.append)
    assert await engine.ended() == Exit(0)
    assert printed == [b"9\n"]
    assert "hf_secret" not in caplog.text
    assert "hf_secret" not in (daemon.folder / "log").read_text()


async def test_start_that_is_given_up_leaves_nothing(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    for there in (0, 1):
        starting = asyncio.create_task(driver.start(launch(daemon, "sleep", "1000"), ignore))
        await asyncio.sleep(0)
        while len(await asyncio.to_thread(labels_of, daemon, "gateway-runtime=gpu")) < there:
            assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert labels_of(daemon, "gateway-runtime=gpu") == []


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_daemon_that_is_killed_ends_its_engines_for_the_gateway(
    daemon: DockerDaemon, driver: DockerDriver
) -> None:
    printed: list[bytes] = []
    asked = launch(daemon, "sh", "-c", "echo up; exec sleep 1000")
    engine = await driver.start(asked, printed.append)
    other = await driver.start(launch(daemon, "sleep", "1000", runtime="other"), ignore)
    process = process_of(daemon, engine.identity)
    daemon.kill()
    try:
        async with asyncio.timeout(30):
            await other.stop(1)
            assert await engine.ended() == Exit(None)
            with pytest.raises(StartFailed, match="no container"):
                await driver.start(launch(daemon, "sleep", "1000"), ignore)
            await engine.stop(1)
    finally:
        daemon.start()
    assert printed == [b"up\n"]
    await driver.clear("other")
    await driver.clear("gpu")
    await until(lambda: not Path(f"/proc/{process}").exists())


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_engine_outlives_a_daemon_that_is_back_in_time(daemon: DockerDaemon) -> None:
    driver = DockerDriver(OWNER, [daemon.host], patience=60)
    printed: list[bytes] = []
    count = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"
    engine = await driver.start(launch(daemon, "sh", "-c", count), printed.append)
    await until(lambda: b"\n3\n" in b"".join(printed))
    daemon.kill()
    await asyncio.to_thread(daemon.start)
    before = numbers(printed)[-1]
    await until(lambda: numbers(printed)[-1] > before + 20)
    assert {*numbers(printed)} == {*range(1, numbers(printed)[-1] + 1)}
    ending = asyncio.create_task(engine.ended())
    await asyncio.sleep(0)
    assert not ending.done()
    await engine.stop(0)
    assert await ending == Exit(137)


async def test_gateway_answers_by_an_engine_in_a_container(
    daemon: DockerDaemon, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    docker = msgspec.to_builtins(daemon.options())
    contained = model("a", docker=docker, environment={"PYTHONPATH": ":".join(sys.path)})
    live = await gateway_for(box(tmp_path, contained, model("b"), rules=QUICK), workers=())
    for name in ("a", "b", "a"):
        answer = await live.client.post(CHAT, json=chat(model=name))
        assert (answer.status_code, answer.json()["model"]) == (200, name)
        running = labels_of(daemon, "gateway-model=a")
        assert len(running) == (name == "a")
    assert logs_with("Uvicorn running", tmp_path) >= 2  # the third is written later


def logs_with(text: str, folder: Path) -> int:
    return sum(text in one.read_text() for one in folder.rglob("*.log"))


def numbers(printed: list[bytes]) -> list[int]:
    """The numbers in whole lines."""
    return [int(line) for line in b"".join(printed).decode().split("\n")[:-1]]


async def one_engine(host: str, owner: str, runtime: str) -> None:
    """What a gateway does that is killed."""
    daemon = DockerDaemon(Path(host.removeprefix("unix://")).parent)
    asked = launch(daemon, "sleep", "1000", runtime=runtime)
    engine: Container = await DockerDriver(owner, [host]).start(asked, ignore)
    print("started", flush=True)  # noqa: T201  the test waits for it
    await engine.ended()


if __name__ == "__main__":
    asyncio.run(one_engine(*sys.argv[1:]))
