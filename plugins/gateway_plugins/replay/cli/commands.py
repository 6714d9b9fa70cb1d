"""`gateway replay RUN --to-step K --model M`: each recorded call is made again, and compared."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from gateway import Config, ConfigError, PluginEntry, WorkerSettings, create_app
from gateway_plugins.replay.cli.comparing import Comparison, lines_of
from gateway_plugins.replay.cli.driving import Driver
from gateway_plugins.replay.recording import read_recording
from gateway_plugins.replay.requests import Rules

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

KEY = "GATEWAY_API_KEY"

STATUS = """\
The calls go to a gateway in this process, with the configuration of --config and its database.
Exit status: 0 all responses have the recorded status; 1 one has not; 2 nothing was sent."""


def add_replay_command(subcommands: "Subcommands") -> None:
    """Add the command `replay`."""
    parser = subcommands.add_parser(
        "replay", help="drive a recorded run again, offline up to a step, then live", epilog=STATUS
    )
    parser.add_argument("run_file", metavar="RUN", help="traces as JSON lines, see traces export")
    parser.add_argument(
        "--to-step", type=_count, metavar="K", help="calls that are answered from RUN; default: all"
    )
    parser.add_argument("--model", metavar="M", help="model of the calls that go to a worker")
    parser.add_argument(
        "--worker", dest="workers", action="append", metavar="URL", help="worker; repeatable"
    )
    parser.add_argument("--config", help="YAML or TOML file with workers, plugins, the database")
    parser.add_argument(
        "--storage-path", metavar="FILE", help="file of the embedded database (gateway.db)"
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"if the configuration asks for one; else {KEY} is read"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.set_defaults(run=replay)


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return int(text)


def replay(options: argparse.Namespace) -> int:
    """Drive the run that the options name. Raises ConfigError."""
    if options.model is not None and options.to_step is None:
        raise ConfigError("--model needs --to-step: without it no call goes to a worker")
    settings = _settings(options)
    if options.to_step is not None and not settings.workers:
        raise ConfigError("calls after --to-step go to a worker: name one, --worker URL")
    return asyncio.run(_drive(options, settings))


async def _drive(options: argparse.Namespace, settings: Config) -> int:
    """Print each session when it has ended; return the exit status."""
    key = options.api_key or os.environ.get(KEY)
    recording = await asyncio.to_thread(read_recording, options.run_file, Rules((), ()))
    link = {"run": options.run_file, "to_step": options.to_step, "model": options.model}
    gateway = create_app(settings)
    status = 0
    async with gateway:
        async for session in Driver(gateway, recording, key, link).sessions():
            _print(session, as_json=options.json)
            if any(one.status != one.recorded_status for one in session):
                status = 1
    return status


def _settings(options: argparse.Namespace) -> Config:
    """Return the configuration with the recording, and all that the replay needs."""
    settings: Config = options.settings.with_database(options.storage_path)
    if options.workers:
        workers = tuple(WorkerSettings(url=url) for url in options.workers)
        settings = replace(settings, workers=workers)
    return replace(settings, plugins=tuple(_plugins(settings, options)), processes=1)


def _plugins(settings: Config, options: argparse.Namespace) -> Iterable[PluginEntry]:
    given = {entry.name: entry for entry in settings.plugins}
    if "sessions" not in given:
        yield PluginEntry(name="sessions", source="replay")
    yield from (entry for entry in settings.plugins if entry.name != "replay")
    if "trace_capture" not in given:
        kept: dict[str, object] = {"wire_responses": True}
        yield PluginEntry(name="trace_capture", options=kept, source="replay")
    own = given["replay"].options if "replay" in given else {}
    said = {"path": options.run_file, "to_step": options.to_step, "model": options.model}
    yield PluginEntry(name="replay", options={**own, **said}, source="gateway replay")


def _print(found: list[Comparison], *, as_json: bool) -> None:
    encode = msgspec.json.Encoder().encode
    lines = (encode(one).decode() for one in found) if as_json else lines_of(found)
    for line in lines:
        sys.stdout.write(f"{line}\n")
