"""`gateway batch cancel|requeue`: changes items in the file, also while a gateway runs them."""

import argparse
import time

from gateway import Config, FileChanges
from gateway_plugins.batch.cli.open_file import options_of, settings_of, to_change
from gateway_plugins.batch.cli.output import Progress, complain, say
from gateway_plugins.batch.queue import changes, reading
from gateway_plugins.batch.queue.changes import Failed, Found
from gateway_plugins.batch.queue.items import RUNNING, STATES

DROPPED = (
    "the gateway drops the responses to calls that were running: it does not store them, but the"
    " worker may finish them"
)


def cancel_items(arguments: argparse.Namespace) -> int:
    """Cancel the items that the arguments name."""
    settings = settings_of(arguments)
    kept = options_of(settings).keep_results
    running, failed = 0, 0
    with to_change(settings, "DELETE /v1/batch/completions/{id}") as file:
        for item_id in arguments.item_ids:
            found = _cancel(file, item_id, kept)
            if found is None:
                failed += 1
                complain(f"{item_id}: {_why_not(file, item_id, 'cancel')}")
            else:
                running += found.state == RUNNING
                say(f"{item_id} canceled")
    if running:
        complain(DROPPED)
    return int(failed > 0)


def _cancel(file: FileChanges, item_id: str, kept: float) -> Found | None:
    now = time.time()
    return file.write(lambda db: changes.cancel(db, item_id, changes.End(now, now + kept)))


def requeue_items(arguments: argparse.Namespace) -> int:
    """Queue items again: those that the arguments name, or all failed ones."""
    settings = settings_of(arguments)
    if arguments.failed:
        return _requeue_failed(arguments, settings)
    deadline = time.time() + options_of(settings).deadline
    failed = 0
    with to_change(settings, "POST /v1/batch/completions") as file:
        for item_id in arguments.item_ids:
            if _requeue(file, item_id, deadline) is None:
                failed += 1
                complain(f"{item_id}: {_why_not(file, item_id, 'requeue')}")
            else:
                say(f"{item_id} queued")
    return int(failed > 0)


def _requeue(file: FileChanges, item_id: str, deadline: float) -> Found | None:
    return file.write(lambda db: changes.requeue(db, item_id, deadline))


def _requeue_failed(arguments: argparse.Namespace, settings: Config) -> int:
    """Queue what has failed until now: what fails again meanwhile is left."""
    now, done = time.time(), 0
    which = Failed(arguments.model, arguments.key, now)
    deadline, most = now + options_of(settings).deadline, changes.SLICE
    with (
        to_change(settings, "POST /v1/batch/completions") as file,
        Progress("items", file.write(lambda db: changes.count_failed(db, which))) as progress,
    ):
        while found := file.write(lambda db: changes.requeue_failed(db, which, deadline, most)):
            done += len(found)
            progress.show(done)
    say(f"{done} items queued")
    return 0


def _why_not(file: FileChanges, item_id: str, action: str) -> str:
    """Return why an item cannot be changed as wished, and what to do."""
    if item_id.startswith("batch_") and not item_id.startswith("batch_req_"):
        return f"this is a batch, not an item: POST /v1/batches/{item_id}/cancel cancels it"
    item = file.write(lambda db: reading.item_of(db, item_id))
    if item is None:
        return "there is no such item; `gateway batch list` prints those that there are"
    if item.batch is not None and item.is_over:
        return "it is a line of a batch file, and has ended; submit the line in another batch"
    return f"it is {STATES[item.state]} already, so there is nothing to {action}"
