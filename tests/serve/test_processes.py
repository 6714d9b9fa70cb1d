"""`gateway serve --processes N`: real processes on one port, killed and reloaded."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.callers.raw_client import CutShort, RawClient, head_of
from support.callers.scraping import Scrape
from support.gateways.capturing import chat
from support.gateways.reloadable import write
from support.gateways.serving_process import PATIENCE, Process, started
from support.gateways.serving_processes import WHO, a_client_of_each, several, who_answers
from support.plugins.recording_plugin import until

from gateway import ConfigError, Gateway
from gateway.client import AsyncGatewayClient
from gateway.config import Config, PluginEntry, StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

CHAT = "/v1/chat/completions"
FAILS = """
import contextlib
from gateway import hookimpl

@hookimpl
@contextlib.asynccontextmanager
async def lifespan(gateway):
    raise OSError("the disk is full")
    yield
"""
REPLACED = re.compile(rb"process (\d) \(pid (\d+)\) ended by SIGKILL; replaced")


async def asked(client: RawClient, method: str, target: str, content: object = None) -> Any:
    body = b"" if content is None else json.dumps(content).encode()
    answer = await client.ask(method, target, [(b"content-type", b"application/json")], body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def workers_of(client: RawClient) -> list[str]:
    return [worker_id for worker_id, *_ in await standing(client)]


async def standing(client: RawClient) -> list[tuple[str, str, float, list[str] | None]]:
    """Of each worker its id, state, weight and models, as this process has them."""
    found = await asked(client, "GET", "/admin/workers")
    return [(one["worker_id"], one["state"], one["weight"], one["models"]) for one in found]


async def scraped(client: RawClient) -> Scrape:
    return Scrape((await client.ask("GET", "/metrics")).body.decode())


async def kill_before_it_accepts(process: Process, pid: int) -> None:
    """No connection is lost that waits to be accepted when the process is killed."""
    os.kill(pid, signal.SIGSTOP)
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(process.client()) for _ in range(12)]
        for caller in callers:
            await caller.send(head_of("GET", "/who", []))
        os.kill(pid, signal.SIGKILL)
        for caller in callers:
            assert (await caller.answer()).status == 200


async def test_admin_changes_apply_in_all_processes(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    async with (
        several(file, 3, workers=["http://127.0.0.1:9"]) as process,
        a_client_of_each(process, 3) as clients,
    ):
        [kept] = await workers_of(clients[0])
        await asked(clients[1], "POST", "/admin/workers", {"url": "http://a:1", "worker_id": "a"})
        changes = (("PATCH", {"weight": 2.5}), ("PATCH", {"models": ["m"]}))
        both = zip(clients, changes, strict=False)
        target = "/admin/workers/a"
        async with asyncio.TaskGroup() as group:  # of one worker, at the same time
            for client, (method, fields) in both:
                group.create_task(asked(client, method, target, fields))
        await asked(clients[2], "POST", f"/admin/workers/{kept}/drain", {})
        changed = [(kept, "draining", 1, None), ("a", "up", 2.5, ["m"])]
        assert [await standing(client) for client in clients] == [changed] * 3

        _, pid = await who_answers(clients[1])
        await kill_before_it_accepts(process, pid)
        await process.says(REPLACED)
        async with a_client_of_each(process, 3) as again:
            assert (await who_answers(again[1]))[1] != pid
            assert await standing(again[1]) == changed
            await asked(again[1], "DELETE", "/admin/workers/a")
            assert [await workers_of(client) for client in again] == [[kept]] * 3


async def test_reload_applies_in_all_processes_or_reports_an_error(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    worker = {"worker_id": "w", "url": "http://127.0.0.1:9"}
    async with (
        several(file, 2, workers=[worker]) as process,
        a_client_of_each(process, 2) as clients,
    ):
        write(file, WHO, workers=[worker | {"worker_id": "v"}], processes=2)
        assert (await asked(clients[1], "POST", "/admin/reload"))["changed"]["workers"]["added"]
        assert [await workers_of(client) for client in clients] == [["v"]] * 2
        file.write_text("workers: 5\n")
        refused = await clients[0].ask("POST", "/admin/reload")
        assert json.loads(refused.body)["error"]["code"] == "invalid_configuration"
        _, pid = await who_answers(clients[1])
        os.kill(pid, signal.SIGKILL)  # its replacement cannot read the file
        async with a_client_of_each(process, 2) as again:
            assert [await workers_of(client) for client in again] == [["v"]] * 2
            write(file, WHO, workers=[worker | {"worker_id": "u"}])
            process.kill(signal.SIGHUP)
            for client in again:
                while await workers_of(client) != ["u"]:
                    pass
        process.kill(signal.SIGTERM)
        assert await process.ended() == 0
    assert b"Traceback" not in process.log


async def converse(clients: Sequence[RawClient], session_id: str, turns: int) -> None:
    """Each turn at another process than the one before."""
    messages: list[dict[str, str]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"And number {turn}?"})
        asks = {"messages": messages, "max_tokens": 8, "seed": turn}
        client = clients[turn % len(clients)]
        answer = await asked(client, "POST", f"/sessions/{session_id}{CHAT}", asks)
        messages.append(answer["choices"][0]["message"])


async def ask_on(client: RawClient, session_id: str, stop: asyncio.Event) -> int:
    """How many calls were answered whole, until `stop` or the process is gone."""
    whole = 0
    with contextlib.suppress(OSError, EOFError, CutShort):
        while not stop.is_set():
            await asked(client, "POST", f"/sessions/{session_id}{CHAT}", chat(max_tokens=4))
            whole += 1
    return whole


async def used(client: RawClient) -> tuple[int, int]:
    """Calls that were answered and all, by the books."""
    rows = (await asked(client, "GET", "/monitor/key_usage"))["data"]
    return sum(row["successes"] for row in rows), sum(row["requests"] for row in rows)


async def test_processes_share_one_database_and_one_scrape(
    tmp_path: Path, simulator: Simulator
) -> None:
    plugins = ("sessions", "trace_capture", "usage", "metrics")
    file = tmp_path / "gateway.yaml"
    async with several(file, 2, *plugins, workers=[f"{simulator.url}/v1"]) as process:
        async with a_client_of_each(process, 2) as clients:
            await converse(clients, "shared", turns=6)
            for client in clients:
                found = await scraped(client)
                assert found.value("gateway_requests_total") == 6
                assert found.value("gateway_traces_total", verdict="COMPLETE") == 6
                assert found.value("gen_ai_server_request_duration_seconds_count") == 6
                assert found.value("gateway_worker_up") == found.value("gateway_worker_state") == 1
                assert found.value("gateway_processes") == 2
                assert found.value("gateway_processes_configured") == 2
                assert await used(client) == (6, 6)
            await asked(clients[0], "POST", "/admin/weight_version", {"weight_version": 7})
            await converse(clients[1:], "later", turns=1)
        async with AsyncGatewayClient(process.url) as trainer:
            trajectories = await trainer.trajectories("shared")
            assert [len(one.trace_ids) for one in trajectories.trajectories] == [6]
            assert not trajectories.left_out
            [trace] = await trainer.get_session_traces("later")
            assert trace.weight_version == 7


async def test_killed_process_harms_no_call_of_another_process(
    tmp_path: Path, simulator: Simulator
) -> None:
    plugins = ("sessions", "trace_capture", "usage")
    file = tmp_path / "gateway.yaml"
    stop = asyncio.Event()
    async with several(file, 2, *plugins, workers=[f"{simulator.url}/v1"]) as process:
        async with a_client_of_each(process, 2) as clients, a_client_of_each(process, 2) as others:
            _, pid = await who_answers(clients[1])
            asking = [
                asyncio.create_task(ask_on(client, "same", stop)) for client in (*clients, *others)
            ]
            await until(lambda: simulator.stats.served > 40)
            os.kill(pid, signal.SIGKILL)
            await process.says(REPLACED)
            async with a_client_of_each(process, 2) as again:
                stop.set()
                served = [await one for one in asking]
                assert served[0] > 5, served
                async with asyncio.timeout(PATIENCE):
                    while (await used(again[0]))[1] < sum(served):
                        pass
                success, requests = await used(again[1])
        async with AsyncGatewayClient(process.url) as trainer:
            traces = await trainer.get_session_traces("same")
    assert sum(served) <= success <= requests <= sum(served) + 2
    assert len(traces) == success


async def test_processes_drain_and_end_without_their_supervisor(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def late(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await may_end.wait()
        await connection.write(answer_of(b'"late"'))

    file = tmp_path / "gateway.yaml"
    async with ScriptedWorker(late) as worker:
        async with (
            several(file, 2, workers=[worker.url]) as process,
            a_client_of_each(process, 2) as clients,
        ):
            pids = [(await who_answers(client))[1] for client in clients]
            await clients[1].send(head_of("GET", "/v1/models", []))
            await until(lambda: bool(worker.requests))
            process.kill(signal.SIGKILL)
            await process.says(re.compile(rb'"process":1'))
            may_end.set()
            assert (await clients[1].answer()).body == b'"late"'
            assert await process.ended() == -signal.SIGKILL  # the log ends with the last of them
            await until(lambda: not any(map(runs, pids)))
            assert process.log.count(b"it drains and ends") == 2


async def test_process_that_starts_as_the_supervisor_dies_serves_and_ends(
    tmp_path: Path, simulator: Simulator
) -> None:
    """The supervisor is stopped, so that a process that takes a killed one's place starts alone."""
    file = tmp_path / "gateway.yaml"
    async with several(file, 2, workers=[f"{simulator.url}/v1"]) as process:
        async with a_client_of_each(process, 2) as clients:
            pids = [(await who_answers(client))[1] for client in clients]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await process.says(REPLACED)
        replacements = await forked_by(process.pid, pids)
        os.kill(replacements[0], signal.SIGSTOP)
        process.kill(signal.SIGKILL)
        os.kill(replacements[0], signal.SIGCONT)
        assert await process.ended() == -signal.SIGKILL  # the log ends with the last of them
        assert b"ends by an error" not in process.log
        assert b"Traceback" not in process.log


async def forked_by(pid: int, known: Sequence[int]) -> list[int]:
    """The children of a process other than the known ones, once there are any."""
    children = Path(f"/proc/{pid}/task/{pid}/children")

    def found() -> list[int]:
        return [int(one) for one in children.read_text().split() if int(one) not in known]

    await until(lambda: bool(found()))
    return found()


async def test_stopped_process_is_reported_by_the_supervisor(tmp_path: Path) -> None:
    async with several(tmp_path / "gateway.yaml", 2, workers=["http://127.0.0.1:9"]) as process:
        async with a_client_of_each(process, 2) as clients:
            _, pid = await who_answers(clients[1])
        os.kill(pid, signal.SIGSTOP)
        await process.says(re.compile(rb"\(pid %d\) was stopped by a signal" % pid))
        os.kill(pid, signal.SIGCONT)
        await process.says(re.compile(rb"\(pid %d\) continues" % pid))


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("fails", [pytest.param(True, marks=pytest.mark.slow), False])
async def test_startup_error_is_logged_once(tmp_path: Path, fails: bool) -> None:
    file = tmp_path / "gateway.yaml"
    plugin = tmp_path / "fails.py"
    plugin.write_text(FAILS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = 0 if fails else taken.getsockname()[1]
        said = []
        for processes in (1, 3):
            write(
                file,
                str(plugin) if fails else WHO,
                storage={"path": "x.db"},
                port=port,
                processes=processes,
            )
            arguments = ("serve", "--config", str(file), "--worker", "http://127.0.0.1:9")
            async with started(*arguments, environment={}) as process:
                status = await process.ended()
                words = re.search(rb"did not start: .*|bind on address[^\"]*", process.log)
                assert words is not None, process.log
                assert process.log.count(words[0]) == 1, process.log
                said.append((status, words[0]))
    assert said[0] == said[1]
    assert said[0][0] == (2 if fails else 3)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"storage": StorageSettings(path=":memory:")}, "processes: 2: the database is in memory"),
        ({"plugins": ("weight_sync",)}, "plugin weight_sync works in one process alone"),
        ({"plugins": ("trl",)}, "plugin trl works in one process alone"),
    ],
)
def test_settings_for_one_process_are_rejected_with_several(
    settings: dict[str, Any], why: str
) -> None:
    entries = tuple(PluginEntry(name=name) for name in settings.pop("plugins", ()))
    with pytest.raises(ConfigError, match=why):
        Gateway(Config(workers=(Worker(url="http://a"),), plugins=entries, processes=2, **settings))
