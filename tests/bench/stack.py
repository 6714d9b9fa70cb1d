"""The gateway that is measured, as an operator would run it."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from support.paths import ROOT
from support.ports import free_port

from bench.systems import SESSIONS, Command, Place, System

Filler = Callable[[Path], None]
"""Makes the file of traces before the gateway starts for the first time."""

WHOLE = (
    "auth",
    "limits",
    "sessions",
    "circuit_breaker",
    "backpressure",
    "stickiness",
    "trace_capture",
    "usage",
    "metrics",
)
"""As in configs/operator.yaml."""

MOST = 1_000_000_000
"""A limit that is counted and never reached."""

NAME = "gateway"

RATIO = 0.1
"""The share of calls whose spans are recorded, where `otel` is among the plugins."""

AT_A_TIME = 2_000
"""Calls that a worker may have, so that none of those that are measured waits for a place."""

KEYS = 10

COMMAND = (sys.executable, "-c", "from gateway.cli import main; main()")


def gateway(
    name: str = NAME,
    plugins: Sequence[str] = WHOLE,
    *,
    keys: int = KEYS,
    workers: int = 1,
    sessions: int = SESSIONS,
    slots: int = AT_A_TIME,
    fill: Filler | None = None,
) -> System:
    """With a file of so many keys, so many workers of so many slots each, and the file of traces
    that `fill` makes."""

    def command(place: Place) -> Command:
        scopes = ("realtime", "upload") if "uploads" in plugins else None
        write_keys(place.folder / "keys.json", keys, scopes)
        grpc_port = free_port() if "grpc" in plugins else 0
        made = configuration(place, plugins, workers, slots, grpc_port)
        text = yaml.safe_dump(made, sort_keys=False)
        file = place.folder / "gateway.yaml"
        file.write_text(text)
        traces = place.folder / "gateway.db"
        if fill is not None and not traces.exists():
            fill(traces)
        return Command(
            argv=(*COMMAND, "serve", "--config", str(file)),
            environment=source(ROOT),
            configuration=text,
            traces=traces if "trace_capture" in plugins else None,
            grpc_port=grpc_port,
        )

    return System(
        name=name,
        command=command,
        workers=workers,
        keys=keys if "auth" in plugins else 0,
        sessions=sessions,
        kept=fill is not None,
    )


def source(checkout: Path) -> dict[str, str]:
    """The environment in which this Python runs the gateway of a checkout."""
    return {"PYTHONPATH": f"{checkout}:{checkout / 'plugins'}"}


def configuration(
    place: Place, plugins: Sequence[str], workers: int, slots: int, grpc_port: int = 0
) -> dict[str, object]:
    return {
        "host": "127.0.0.1",
        "port": place.port,
        "workers": [f"http://{host}:{place.worker_port}/v1" for host in hosts(workers)],
        "plugins": [_plugin(name, place, slots, grpc_port) for name in plugins],
        "storage": {"path": "gateway.db"},
    }


def _plugin(name: str, place: Place, slots: int, grpc_port: int) -> str | dict[str, object]:
    match name:
        case "auth":
            return {name: {"keys_file": "keys.json"}}
        case "backpressure":
            return {name: {"max_in_flight_per_worker": slots}}
        case "grpc":
            return {name: {"port": grpc_port, "log_calls": False}}
        case "limits":
            limits = ("requests_per_minute", "tokens_per_minute", "concurrent")
            return {name: {"default": dict.fromkeys(limits, MOST)}}
        case "uploads":
            return {name: {"cache": "models"}}
        case "otel" | "otel, not sampled":
            ratio = RATIO if name == "otel" else 0
            return {"otel": {"endpoint": place.worker, "ratio": ratio}}
    return name


def hosts(count: int) -> list[str]:
    """The addresses that `upstream -hosts COUNT` listens on."""
    return [f"127.0.{number >> 8}.{number & 255}" for number in range(1, count + 1)]


def write_keys(file: Path, count: int, scopes: Sequence[str] | None = None) -> None:
    """Those that `load -keys COUNT` calls with. None: they have the usual scopes."""
    digests = (hashlib.sha256(token_of(number).encode()) for number in range(count))
    given = {} if scopes is None else {"scopes": scopes}
    keys = [
        {"id": f"key-{number}", "token_sha256": digest.hexdigest(), **given}
        for number, digest in enumerate(digests)
    ]
    file.touch(mode=0o600)
    file.write_text(json.dumps({"keys": keys}))


def token_of(number: int) -> str:
    return f"gw-{number:043d}"


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in WHOLE if name not in names)
