"""A gateway that starts simulators as its engines: a GPU box without a GPU."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway_plugins.runtime import Runtime
from gateway_plugins.runtime.fleet import Fleet
from support.callers.scraping import Scrape, scrape
from support.plugins.recording_plugin import until
from support.ports import free_port

from gateway.config import PluginEntry
from gateway.testing import GatewayFor, Live, entry

CHAT = "/v1/chat/completions"

RUN = "from gateway.cli import main; main()"

SIMULATE = (
    *(sys.executable, "-c", RUN, "simulate", "--host", "{host}", "--port", "{port}"),
    *("--model", "{name}"),
)
"""The command of an engine that is a simulator."""

QUICK = {"min_hot": 0, "cooldown": 0, "tokens": 100, "min_batch": 0, "drain_batch": 0.2}
"""Rules by which models change as soon as another one is wanted."""


def model(name: str, *arguments: str, **options: Any) -> dict[str, Any]:
    """A model whose engine is a simulator with these arguments."""
    path = os.environ.get("PYTHONPATH")
    environment = {} if path is None else {"PYTHONPATH": path}
    return {
        "name": name,
        "command": list(SIMULATE),
        "arguments": list(arguments),
        "environment": environment,
        "load_time": 1.0,
        **options,
    }


def box(folder: Path, *models: dict[str, Any], **options: Any) -> PluginEntry:
    """The plugin with one runtime; the engines' logs are in `folder`."""
    runtime = {"name": "gpu", "port": free_port(), **options.pop("runtime", {})}
    return entry(
        Runtime,
        **{
            "models": list(models),
            "runtimes": [runtime],
            "logs": str(folder),
            "grace": 5.0,
            "restarts": {"first": 0.1, "longest": 0.2},
            **options,
        },
    )


async def scrape_of_a_box(gateway_for: GatewayFor, folder: Path) -> Scrape:
    """A scrape with uploads, an engine that is there, and one that could not be started."""
    models = model("a"), model("b", command=["/nonexistent/engine"])
    runtimes = [{"name": name, "port": free_port(), "realtime": name} for name in ("a", "b")]
    plugins = ("metrics", "uploads", box(folder, *models, runtimes=runtimes))
    live = await gateway_for(*plugins, workers=())
    owners = fleet_of(live).owners
    await until(lambda: [one.state.phase for one in owners] == ["hot", "failed"])
    return await scrape(live)


def fleet_of(live: Live) -> Fleet:
    return live.plugin(Runtime).fleet()


def starts(folder: Path, model: str = "") -> int:
    """How many engines were started, of one model or of all: each start has a log."""
    return sum(model in path.name for path in folder.glob("*.log"))


def phases(live: Live) -> list[str]:
    """The states of the only runtime, from the first to the latest."""
    [owner] = fleet_of(live).owners
    return [event.state for event in reversed(owner.decisions.latest())]


async def reached(live: Live, wanted: Callable[[str], bool]) -> None:
    """Wait until a state of the only runtime is as wanted."""
    await until(lambda: any(map(wanted, phases(live))))
