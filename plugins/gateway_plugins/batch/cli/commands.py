"""The arguments of `gateway batch list|show|cancel|requeue|import`."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import ConfigError
from gateway_plugins.batch.cli.changing import cancel_items, requeue_items
from gateway_plugins.batch.cli.importing import import_file
from gateway_plugins.batch.cli.listing import list_items, show_item
from gateway_plugins.batch.cli.requests import CHAT, DEFAULT_PRIORITY, has_api
from gateway_plugins.batch.options import MAX_PRIORITY, MIN_PRIORITY
from gateway_plugins.batch.queue.items import STATES

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

Run = Callable[[argparse.Namespace], int]

DEFAULT_LIMIT = 50

BESIDE = """\
A gateway may be running: its processes see the change within a second. The response to a call that
is running for a canceled item is dropped, not stored."""

STATUS = """\
Exit status: 0 done; 1 some items were not changed, and standard error says which and why; 2 nothing
was done."""


def add_batch_commands(subcommands: "Subcommands") -> None:
    """Add the command `batch`."""
    parser = subcommands.add_parser("batch", help="list and change the queue of the plugin batch")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_show(actions)
    _add_cancel(actions)
    _add_requeue(actions)
    _add_import(actions)


def _add_list(actions: "Subcommands") -> None:
    parser = actions.add_parser("list", help="print one line per item, the newest first")
    _add_file(parser)
    parser.add_argument("--status", choices=STATES, help="only items in this state")
    parser.add_argument("--model", metavar="NAME", help="only items of this model")
    parser.add_argument("--key", metavar="ID", help="only items of this key")
    parser.add_argument(
        "--limit",
        type=_count,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"number of newest items ({DEFAULT_LIMIT}); 0: all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.set_defaults(run=_naming_output(list_items))


def _add_show(actions: "Subcommands") -> None:
    parser = actions.add_parser("show", help="print an item, its request and response, as JSON")
    parser.add_argument("item_id", metavar="ID")
    _add_file(parser)
    parser.set_defaults(run=_naming_output(show_item))


def _add_cancel(actions: "Subcommands") -> None:
    help_ = "cancel queued or running items"
    parser = actions.add_parser("cancel", help=help_, description=BESIDE, epilog=STATUS)
    parser.add_argument("item_ids", metavar="ID", nargs="+")
    _add_file(parser)
    parser.set_defaults(run=_naming_output(cancel_items))


def _add_requeue(actions: "Subcommands") -> None:
    parser = actions.add_parser(
        "requeue",
        help="queue failed or canceled items again",
        description="Queues items again as if they had not been tried, with a new deadline.",
        epilog=STATUS,
    )
    parser.add_argument("item_ids", metavar="ID", nargs="*")
    parser.add_argument(
        "--failed", action="store_true", help="all items with the status error, not those canceled"
    )
    parser.add_argument("--model", metavar="NAME", help="with --failed: only items of this model")
    parser.add_argument("--key", metavar="ID", help="with --failed: only items of this key")
    _add_file(parser)

    def run(arguments: argparse.Namespace) -> int:
        if bool(arguments.item_ids) == arguments.failed:
            parser.error("name items, or give --failed")
        if not arguments.failed and (arguments.model or arguments.key):
            parser.error("--model and --key go with --failed")
        return requeue_items(arguments)

    parser.set_defaults(run=_naming_output(run))


def _add_import(actions: "Subcommands") -> None:
    parser = actions.add_parser(
        "import",
        help="queue the requests of a JSONL file",
        description="Queues a request for each line, which is one of an OpenAI batch file, or the "
        "body of a request. Prints the id of each item as a JSON line.",
        epilog="Exit status: 0 all are queued; 2 nothing is, or as standard error says.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--key", metavar="ID", help="key that the items belong to (none)")
    parser.add_argument(
        "--endpoint",
        type=_endpoint,
        default=CHAT,
        metavar="PATH",
        help=f"path that lines without a url are for ({CHAT})",
    )
    parser.add_argument(
        "--priority",
        type=_priority,
        metavar="N",
        help=f"priority of all items, {MIN_PRIORITY} to {MAX_PRIORITY} (that of the body, else "
        f"{DEFAULT_PRIORITY}); larger is sooner",
    )
    _add_file(parser)
    parser.set_defaults(run=_naming_output(import_file))


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, help="YAML or TOML file with the path of the database"
    )
    parser.add_argument(
        "--storage-path", metavar="FILE", help="file of the embedded database (gateway.db)"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return int(text)


def _endpoint(text: str) -> str:
    if not has_api(text):
        raise argparse.ArgumentTypeError(f"expected a path such as {CHAT}, got {text!r}")
    return text


def _priority(text: str) -> int:
    try:
        found = int(text)
    except ValueError:
        found = MAX_PRIORITY + 1
    if not MIN_PRIORITY <= found <= MAX_PRIORITY:
        bounds = f"{MIN_PRIORITY} to {MAX_PRIORITY}"
        raise argparse.ArgumentTypeError(f"expected an integer, {bounds}, got {text!r}")
    return found


def _naming_output(run: Run) -> Run:
    """Report an error of standard output, such as a full disk, as one."""

    @wraps(run)
    def named(arguments: argparse.Namespace) -> int:
        try:
            status = run(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"standard output: {error.strerror or error}") from error
        return status

    return named
