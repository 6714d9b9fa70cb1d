"""A simulator with a gateway before it in one process, and example requests to try."""

import uvloop

from gateway.app.gateway import Gateway
from gateway.config import MEMORY, Config, PluginEntry, StorageSettings, Worker
from gateway.serve.server import Server
from gateway.simulator import Simulator, SimulatorConfig

TRY = """\
The gateway listens on {url}, before a simulated vLLM. Try, in another terminal:

  curl {url}/v1/models

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sim", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  curl -N {url}/sessions/my-agent/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sim", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

What was sampled for that session, and what it has become as a sequence to train on:

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
        print(TRY.format(url=f"http://127.0.0.1:{port}"), flush=True)
        await Server(gateway).serve()
