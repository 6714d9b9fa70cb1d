"""`gateway doctor`: says before a run which calls will be INCOMPLETE, and what to do about it."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from gateway import Config, ConfigError
from gateway_plugins.trace_capture.cli.doctor import advice
from gateway_plugins.trace_capture.cli.doctor.asking import Fields
from gateway_plugins.trace_capture.cli.doctor.doors import OverHttp
from gateway_plugins.trace_capture.cli.doctor.fleets import check_running, check_workers
from gateway_plugins.trace_capture.cli.doctor.kinds import KINDS, NAMES, TRANSLATED, Kind
from gateway_plugins.trace_capture.cli.doctor.report import lines_of, report_of
from gateway_plugins.trace_capture.cli.doctor.results import Check, Problem
from gateway_plugins.trace_capture.cli.doctor.stages import captures, chosen, translates

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

Options = argparse.Namespace

KEY = "GATEWAY_API_KEY"

STATUS = """\
Exit status: 0 all calls can be trained on; 1 some cannot, and the output says why and what to do; 2
nothing could be asked. Sessions of the calls are deleted."""


def add_doctor_command(subcommands: "Subcommands") -> None:
    """Add the command `doctor`."""
    parser = subcommands.add_parser(
        "doctor", help="check before a run what can be trained on", epilog=STATUS
    )
    parser.add_argument("--config", type=Path, help="YAML or TOML file with workers and plugins")
    parser.add_argument(
        "--worker",
        dest="workers",
        action="append",
        default=[],
        metavar="URL",
        help="URL, or id in the configuration, of a worker to ask in place of all; repeatable",
    )
    parser.add_argument("--url", help="ask the gateway that runs here, in place of a temporary one")
    parser.add_argument("--api-key", metavar="KEY", help=f"the caller's; by default {KEY} is read")
    parser.add_argument("--model", help="model to ask for; default: the first that a worker serves")
    parser.add_argument(
        "--kind", dest="kinds", action="append", choices=NAMES, help="only this kind; repeatable"
    )
    parser.add_argument(
        "--with",
        dest="added",
        type=_object,
        default={},
        metavar="JSON",
        help="fields that the agents send in each chat, such as '{\"include_reasoning\": false}'",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=60.0, help="seconds that an answer has (60)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=doctor)


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}") from None


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return found


def doctor(options: Options) -> int:
    """Make the calls, print what was found, and return the exit status. Raises ConfigError."""
    logging.getLogger("gateway").addHandler(logging.NullHandler())  # it is told in the report
    report = report_of(asyncio.run(_check(options)))
    if options.json:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    else:
        text = "\n".join(lines_of(report))
    sys.stdout.write(f"{text}\n")
    return 0 if report.fine else 1


async def _check(options: Options) -> list[Check]:
    if options.url is not None:
        return await _check_running(options)
    config: Config = options.settings
    try:
        workers = chosen(config, options.workers)
    except ValueError as error:
        raise ConfigError(f"--worker: {error}") from None
    if not workers:
        raise ConfigError("no worker: name one by --worker or --config, or a gateway by --url")
    fields = _fields(options, translated=translates(config))
    found = await check_workers(config, workers, options.model, fields)
    return [*_not_captured(config), *found]


def _fields(options: Options, *, translated: bool) -> Fields:
    kinds = [one for one in KINDS if _is_wanted(one, options, translated=translated)]
    if any(one.follows_chat for one in kinds) and KINDS[0] not in kinds:
        kinds.insert(0, KINDS[0])
    key = options.api_key or os.environ.get(KEY)
    return Fields(kinds=kinds, added=options.added, seconds=options.timeout, key=key)


def _is_wanted(kind: Kind, options: Options, *, translated: bool) -> bool:
    if options.kinds is not None:
        return kind.name in options.kinds
    return translated or kind.api not in TRANSLATED


def _not_captured(config: Config) -> list[Check]:
    """Return the check of the configuration itself, if it has workers and captures nothing."""
    if captures(config) or not (config.workers or config.plugins):
        return []
    what = "the configuration has no trace_capture; the calls below were made with it"
    problem = Problem(reason="not_captured", what=what, what_to_do=advice.NOT_CAPTURED)
    return [
        Check(
            worker="configuration",
            model="",
            kind="plugins",
            verdict="INCOMPLETE",
            problems=(problem,),
        )
    ]


async def _check_running(options: Options) -> list[Check]:
    fields = _fields(options, translated=True)
    headers = {} if fields.key is None else {"authorization": f"Bearer {fields.key}"}
    try:
        client = httpx.AsyncClient(base_url=options.url, headers=headers, timeout=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"--url {options.url}: {error}") from None
    async with client:
        return await check_running(OverHttp(client), options.model, fields)
