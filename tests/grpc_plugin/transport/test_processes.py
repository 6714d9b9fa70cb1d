"""Several processes on one port of gRPC."""

import asyncio
import os
import re
import signal
from pathlib import Path

import grpc
import pytest
from support.gateways.reloadable import write
from support.gateways.serving_process import Process, started
from support.gateways.serving_processes import a_client_of_each, several, who_answers
from support.grpc.calling import Streams, own_channel, title

from gateway.simulator import Simulator, SimulatorConfig

pytestmark = pytest.mark.slow

OK = grpc.StatusCode.OK


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


async def ask_until(process: Process, port: int, wanted: set[bytes], prefix: str) -> None:
    """Call on new connections until each of these processes has served one of these calls."""
    seen = re.compile(rb'"process":(\d)[^\n]*"request_id":"%b' % prefix.encode())
    for number in range(200):
        assert await asyncio.to_thread(ask_once, port, f"{prefix}{number}") is OK
        await process.says(re.compile(rb'"request_id":"%b%d"' % (prefix.encode(), number)))
        if wanted <= set(seen.findall(process.log)):
            return
    raise AssertionError(f"not all have served: {seen.findall(process.log)}")


def ask_once(port: int, request_id: str) -> grpc.StatusCode:
    with own_channel(port) as opened:
        return title(opened, request_id)


async def refusal(file: Path, worker: str, port: int, count: int) -> bytes:
    """What a second gateway says of the port."""
    write(file, ("grpc", {"port": port}), workers=[worker], storage={"path": f"{file}.db"})
    command = ("serve", "--port", "0", "--config", str(file), "--processes", str(count))
    async with started(*command, environment={}) as second:
        assert await second.ended() != 0
        return second.log


@pytest.mark.timeout(180)
async def test_all_processes_serve_one_port_to_the_end(tmp_path: Path) -> None:
    every = {b"0", b"1", b"2"}
    async with (
        Simulator(SimulatorConfig(itl=0.02)) as sim,
        several(
            tmp_path / "gateway.yaml", 3, ("grpc", {"port": 0}), workers=[f"{sim.url}/v1"]
        ) as process,
        a_client_of_each(process, 3) as clients,
    ):
        ports = set(re.findall(rb'"addr":"127\.0\.0\.1:(\d+)"', process.log))
        assert len(ports) == 1
        port = int(ports.pop())
        await ask_until(process, port, every, "first-")
        pids = [(await who_answers(client))[1] for client in clients]
        assert all("cygrpc" in maps(pid) for pid in pids)
        assert "cygrpc" not in maps(process.pid)  # it forks, and may never have used the library

        second = await refusal(tmp_path / "second.yaml", sim.url, port, 1)
        assert b"cannot listen on 127.0.0.1:%d" % port in second

        signal_of = re.compile(rb"process 1 \(pid %d\) ended by SIGKILL" % pids[1])
        os.kill(pids[1], signal.SIGKILL)
        await process.says(signal_of)
        await process.says(re.compile(rb'SIGKILL.*gRPC is served[^\n]*"process":1', re.DOTALL))
        await ask_until(process, port, every, "second-")

        streams = await asyncio.to_thread(Streams, port, 12, 60)
        await asyncio.to_thread(streams.begun)
        process.kill(signal.SIGTERM)
        ended = await asyncio.to_thread(streams.ended)
        assert {code for code, _ in ended} == {OK}
        assert all(tokens for _, tokens in ended)
        assert await process.ended() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 3), (3, 3)])
async def test_a_second_gateway_on_the_port_does_not_start(
    tmp_path: Path, simulator: Simulator, first: int, second: int
) -> None:
    file = tmp_path / "gateway.yaml"
    async with several(file, first, ("grpc", {"port": 0}), workers=[simulator.url]) as process:
        port = int(re.findall(rb'"addr":"127\.0\.0\.1:(\d+)"', process.log)[0])
        said = await refusal(tmp_path / "second.yaml", simulator.url, port, second)
        assert b"127.0.0.1:%d" % port in said
        assert b"taken" in said or b"cannot listen" in said
        assert await asyncio.to_thread(ask_once, port, "still") is OK
