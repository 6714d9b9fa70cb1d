"""A gateway with the plugin `runtime`, and one without that has the same engine as a worker.

The first one starts the engine, `upstream` of the bench; each has a process of its own.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml
from bench.processes import OTHERS, pinned
from bench.running import running
from bench.stack import COMMAND, KEYS, WHOLE, configuration, source, write_keys
from bench.systems import Command, Place, System
from bench.works import Told, orders
from support.paths import ROOT
from support.ports import free_port

MODEL = "bench-model"
"""The one that `upstream` has and `load` calls."""

STACKS = {"core": (), "operator": WHOLE}
"""Plugins beside `runtime`."""


class Side(msgspec.Struct, frozen=True):
    """A gateway that runs: its process, and where it is called, with so many keys."""

    pid: int
    url: str
    keys: int
    load: Path

    def call(self, seconds: float, *, stream: bool, callers: int) -> int:
        """Call it for so long; return how many calls were answered. Raises AssertionError."""
        argv = [
            *(str(self.load), "-url", self.url, "-keys", str(self.keys)),
            *("-callers", str(callers), "-warm", "0s", "-for", f"{seconds}s"),
            *("-text", orders(64, 32, 0.0), *(["-stream"] if stream else [])),
        ]
        with pinned(argv, OTHERS) as calling:
            assert calling.stdout is not None
            told = msgspec.json.decode(calling.stdout.read().splitlines()[-1], type=Told)
        assert not told.errors, told.first_error
        return told.answered


@contextlib.contextmanager
def sides(stack: str, programs: Path, folder: Path) -> Iterator[tuple[Side, Side]]:
    """Both, with the plugin first, as long as the block lasts."""
    engine = free_port()
    with (
        _side(_with(engine, programs), stack, programs, folder / f"{stack}-with") as first,
        _side(_without(engine), stack, programs, folder / f"{stack}-without") as second,
    ):
        yield first, second


def _with(engine: int, programs: Path) -> dict[str, object]:
    model = {"name": MODEL, "command": [str(programs / "upstream"), "-port", "{port}"]}
    other = {"name": "another-model", "command": ["false"]}
    place = {"name": "gpu", "port": engine, "realtime": MODEL}
    return {"runtime": {"models": [model, other], "runtimes": [place], "logs": "."}}


def _without(engine: int) -> str:
    return f"http://127.0.0.1:{engine}/v1"


@contextlib.contextmanager
def _side(
    given: dict[str, object] | str,
    stack: str,
    programs: Path,
    folder: Path,
) -> Iterator[Side]:
    """`given` is the plugin, or the URL of the worker."""
    folder.mkdir()
    place, plugins = Place(folder, free_port(), 0), STACKS[stack]
    write_keys(folder / "keys.json", KEYS)
    settings = configuration(place, plugins, 0, 2_000)
    name = "workers" if isinstance(given, str) else "plugins"
    settings[name] = [given, *settings[name]]  # type: ignore[misc]
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = Command(
        argv=(*COMMAND, "serve", "--config", str(file)),
        environment=source(ROOT),
    )
    keys = KEYS if plugins else 0
    with running(System(name=folder.name, keys=keys), command, place, programs / "load") as one:
        assert one.pid is not None
        yield Side(one.pid, one.url, keys, one.load)
