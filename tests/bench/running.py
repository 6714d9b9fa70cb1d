"""A system while it runs: started on its processor, and found to answer."""

import contextlib
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from bench.processes import MEASURED, OTHERS, pinned
from bench.stack import token_of
from bench.systems import CHAT, Command, Place, System
from gateway import ConfigError

BODY = b'{"model": "bench-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}'

PROBE = 5.0
"""Seconds for the first call."""


class Running(msgspec.Struct, frozen=True):
    """What works are done with; `pid` is None where calls go to the worker itself.

    `load` is the program that calls, `grpc` the address of gRPC, if there is one.
    """

    system: System
    url: str
    pid: int | None
    load: Path
    grpc: str = ""


@contextlib.contextmanager
def workers(upstream: Path, hosts: int) -> Iterator[int]:
    """The port on which so many workers listen, each at an address of its own."""
    argv = (str(upstream), "-hosts", str(hosts))
    with pinned(argv, OTHERS) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextlib.contextmanager
def running(system: System, command: Command | None, place: Place, load: Path) -> Iterator[Running]:
    """Raises ConfigError with the end of its log where it does not answer."""
    if command is None:
        yield Running(system, f"{place.worker}{CHAT}", None, load)
        return
    log = place.folder / "log"
    with (
        log.open("wb") as output,
        pinned(
            command.argv,
            MEASURED,
            environment=command.environment,
            output=output.fileno(),
            cwd=place.folder,
        ) as process,
    ):
        grpc = f"127.0.0.1:{command.grpc_port}" if command.grpc_port else ""
        url = f"http://127.0.0.1:{place.port}{command.path}"
        one = Running(system, url, process.pid, load, grpc)
        deadline = time.monotonic() + command.wait
        while (fault := _fault(one)) is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text("utf-8", "replace")[-1000:]
                raise ConfigError(f"{system.name} does not answer ({fault}); it said: {said}")
            time.sleep(0.1)
        yield one


def _fault(one: Running) -> str | None:
    """Why a call of it is not answered."""
    headers = {"content-type": "application/json"}
    if one.system.keys:
        headers["authorization"] = f"Bearer {token_of(0)}"
    request = urllib.request.Request(one.url.replace("%s", "first"), BODY, headers)
    try:
        with urllib.request.urlopen(request, timeout=PROBE) as answer:
            answer.read()
    except (urllib.error.URLError, OSError) as error:
        return str(error)
    return None


def count(traces: Path | None) -> int:
    """How many there are in the file; numbers are given without gaps."""
    if traces is None or not traces.exists():
        return 0
    with closing(sqlite3.connect(f"{traces.absolute().as_uri()}?mode=ro", uri=True)) as db:
        [(found,)] = db.execute("SELECT coalesce(max(number), 0) FROM traces")
    return int(found)
