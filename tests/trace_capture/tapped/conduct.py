"""A gateway that captures, with a tap between it and its engine."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from accounting.tap import Tap
from gateway_plugins.trace_capture import TraceCapture
from support.gateways.capturing import CAPTURE
from support.gateways.serving_process import serving
from trace_capture.tapped.asks import Inventing
from trace_capture.tapped.books import Books
from trace_capture.tapped.load import Load

from gateway import Config, Trace, open_read_only
from gateway.config import StorageSettings

CALLERS = 8
FOREVER = 1e12
FILE = "traces.db"
PLUGINS = ("sessions", "gateway_plugins.translate:Translate", CAPTURE)


@contextlib.asynccontextmanager
async def tapped(
    port: int, folder: Path, model: str, seed: int, faults: Sequence[str] = ()
) -> AsyncIterator[tuple[Tap, Load]]:
    """In front of the engine at `port` of this machine."""
    tap = Tap("engine", port)
    await tap.start()
    named = [word for plugin in PLUGINS for word in ("--plugin", plugin)]
    settings = {"storage__path": str(folder / FILE), "timeouts__drain": "10"}
    try:
        async with serving(tap.url, *named, **settings) as process:
            yield tap, Load(process.address, Inventing("tap", model, seed, faults), seed)
    finally:
        tap.kill()


def books_of(folder: Path, tap: Tap, load: Load) -> Books:
    """The comparison of all calls."""
    books = Books(traces_of(folder / FILE), tap.served)
    books.compare(load.made)
    return books


def traces_of(file: Path) -> list[Trace]:
    """All traces of a gateway's file: the gateway may be gone."""
    with open_read_only(Config(storage=StorageSettings(path=str(file))), "GET /sessions") as db:
        return list(TraceCapture(TraceCapture.Config()).read_traces(db, 0, FOREVER))
