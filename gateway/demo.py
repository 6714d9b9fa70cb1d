"""A simulator with a gateway in front of it in one process, and example requests to try."""

from socket import socket

import uvloop

from gateway.app.gateway import Gateway
from gateway.config import MEMORY, Config, PluginEntry, StorageSettings, Worker
from gateway.serve.server import Server
from gateway.simulator import Simulator, SimulatorConfig

TRY = """\
The gateway listens on {url}, in front of a simulated vLLM. Try, in another terminal:

  curl {url}/v1/models

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sim", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  curl -N {url}/sessions/my-agent/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sim", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

The traces of that session, and its trajectory, which is a sequence to train on:

  curl {url}/sessions/my-agent/traces

  curl {url}/sessions/my-agent/trajectories

Each call is logged below, one JSON line each. Ctrl-C ends it.
"""


def run_demo(port: int, plugins: list[str]) -> None:
    """Serve until a signal arrives. Raises ConfigError if a plugin cannot be loaded."""
    uvloop.run(_demo(port, plugins))


async def _demo(port: int, plugins: list[str]) -> None:
    async with Simulator(SimulatorConfig(ttft=0.1, itl=0.01)) as simulator:
        names = ["sessions", "trace_capture", *plugins, "access_log"]
        gateway = Gateway(
            Config(
                port=port,
                storage=StorageSettings(path=MEMORY),
                workers=(Worker(url=f"{simulator.url}/v1", worker_id="simulator"),),
                plugins=tuple(PluginEntry(name=name, source="--plugin") for name in names),
            )
        )
        await _Demo(gateway).serve()


class _Demo(Server):
    """Prints the examples once they can be tried, and not if the port is taken."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        print(TRY.format(url=f"http://127.0.0.1:{self.config.port}"), flush=True)
