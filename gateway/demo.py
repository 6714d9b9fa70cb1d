"""Gateways to try in one command, with simulators behind them, and example requests."""

import os
import sys
from collections.abc import Iterable, Sequence
from socket import socket

import uvloop

from gateway.app.gateway import Gateway
from gateway.config import MEMORY, Config, PluginEntry, StorageSettings, Worker
from gateway.plugins.flags import flag
from gateway.serve.server import Server
from gateway.simulator import Simulator, SimulatorConfig

TRY = """\
The gateway listens on {url}, in front of a simulated vLLM. Open {url}/dashboard in a browser: it
shows the fleet, and each token of the calls below. Try, in another terminal:

  curl {url}/v1/models

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sim", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  curl -N {url}/sessions/my-agent/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sim", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

The same model by Anthropic's Messages and by OpenAI's Responses, for agents that speak them. In a
session they are carried as chat, so that their traces have the exact tokens, too:

  curl {url}/sessions/my-claude/v1/messages -H 'content-type: application/json' \\
    -d '{{"model": "sim", "max_tokens": 50, "messages": [{{"role": "user", "content": "Hello"}}]}}'

  curl {url}/sessions/my-codex/v1/responses -H 'content-type: application/json' \\
    -d '{{"model": "sim", "input": "Hello"}}'

  ANTHROPIC_BASE_URL={url}/sessions/my-claude ANTHROPIC_API_KEY=none claude --model sim

The traces of the session `my-agent`, and its trajectory, which is a sequence to train on:

  curl {url}/sessions/my-agent/traces

  curl {url}/sessions/my-agent/trajectories

Each call is logged below, one JSON line each. Ctrl-C ends it.
"""

TRY_GPU_BOX = """\
The gateway listens on {url}. Two simulated models share one GPU; each takes three seconds to load.
`assistant` is loaded now, and is there for realtime calls. {url}/dashboard shows who has the GPU
and why. Try, in another terminal:

  Calls that wait for their model: {many} callers, one load.

  for i in $(seq {many}); do curl -s {url}/v1/completions -H 'content-type: application/json' \\
    -d '{{"model": "bulk", "prompt": "Hello", "max_tokens": 8}}' & done; wait

  Batch items: `bulk` gets the GPU as soon as `assistant` was not called for five seconds.

  for i in $(seq 200); do curl -s {url}/v1/batch/completions -H 'content-type: application/json' \\
    -d '{{"model": "bulk", "prompt": "Hello", "max_tokens": 64}}' >/dev/null; done

  A realtime call in the middle of them: `assistant` comes back, and the items wait.

  curl {url}/v1/completions -H 'content-type: application/json' \\
    -d '{{"model": "assistant", "prompt": "Hello", "temperature": 0}}'

  Who has the GPU, who waits, and why:

  curl {url}/admin/runtime

Each decision is logged below. Ctrl-C ends it.
"""

SIMULATED = SimulatorConfig(
    ttft=0.1, itl=0.01, max_model_len=200_000, scale_out=True, responses_store=True
)
"""All dialects, and a context that has room for the first prompt of a coding agent."""

RUNNING = ("translate", "trace_capture", "dashboard", "access_log")
"""Plugins of the demo that come after those that are asked for."""

GPU_BOX_RULES = {"min_hot": 5, "cooldown": 5, "tokens": 100, "min_batch": 3, "drain_batch": 1}
"""Times that a person can watch, in seconds."""

ENGINE = (
    *(sys.executable, "-c", "from gateway.cli import main; main()", "simulate"),
    *("--host", "{host}", "--port", "{port}", "--model", "{name}"),
    *("--load-time", "3", "--ttft", "0.05", "--itl", "0.05"),
)
"""The command of a simulated engine."""


def run_demo(port: int, plugins: list[str], flags: list[str]) -> None:
    """Serve until a signal arrives. Raises ConfigError if a plugin cannot be loaded."""
    uvloop.run(_demo(port, plugins, flags))


def run_gpu_box(port: int, plugins: list[str], flags: list[str]) -> None:
    """Serve two models that share a GPU, until a signal arrives. Raises ConfigError."""
    box = PluginEntry(name="runtime", options=_gpu_box(port + 1), source="--gpu-box")
    entries = (box, *map(_entry_of, flags))
    gateway = _gateway(port, ["openai_models", "batch", "dashboard", *plugins], *entries)
    uvloop.run(_Demo(gateway, TRY_GPU_BOX, flags).serve())


def _entry_of(name: str) -> PluginEntry:
    """Return the plugin that a flag stands for."""
    options = dict(flag(name).demo_options(os.environ))
    return PluginEntry(name=name, options=options, source=f"--{name}")


def _gpu_box(port: int) -> dict[str, object]:
    models = [{"name": name, "command": list(ENGINE)} for name in ("assistant", "bulk")]
    runtime = {"name": "gpu", "port": port, "realtime": "assistant"}
    return {"models": models, "runtimes": [runtime], "rules": GPU_BOX_RULES}


async def _demo(port: int, plugins: list[str], flags: list[str]) -> None:
    async with Simulator(SIMULATED) as simulator:
        names = dict.fromkeys(["sessions", *plugins, *RUNNING])
        worker = Worker(url=f"{simulator.url}/v1", worker_id="simulator")
        gateway = _gateway(port, names, *map(_entry_of, flags), workers=(worker,))
        await _Demo(gateway, TRY, flags).serve()


def _gateway(
    port: int, plugins: Iterable[str], *entries: PluginEntry, workers: tuple[Worker, ...] = ()
) -> Gateway:
    named = (PluginEntry(name=name, source="--plugin") for name in plugins)
    return Gateway(
        Config(
            port=port,
            storage=StorageSettings(path=MEMORY),
            workers=workers,
            plugins=(*named, *entries),
        )
    )


class _Demo(Server):
    """Prints the examples once they can be tried, and not if the port is taken."""

    def __init__(self, gateway: Gateway, examples: str, flags: Sequence[str]) -> None:
        super().__init__(gateway)
        self._examples = examples
        self._flags = flags

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        url = f"http://127.0.0.1:{self.config.port}"
        print(self._examples.format(url=url, many=20), flush=True)
        for name in self._flags:
            print(flag(name).demo_examples(os.environ), flush=True)
