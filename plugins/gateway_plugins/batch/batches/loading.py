"""Queues the lines of a valid input file in slices, from the line after the last that is queued."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gateway import Database
from gateway_plugins.batch.batches import rows
from gateway_plugins.batch.batches.input.checking import Request, read
from gateway_plugins.batch.batches.input.lines import lines_of
from gateway_plugins.batch.batches.rows import Batch
from gateway_plugins.batch.queue.changes import End, Found, cancel_lines
from gateway_plugins.batch.queue.items import CANCELLED, ItemError, NewItem
from gateway_plugins.batch.queue.submission import add

SLICE_LINES, SLICE_BYTES = 100, 512 * 1024
"""Lines, and bytes of requests, of one slice at most: commits of calls wait for its transaction."""

CANCELLED_WITH_BATCH = ItemError(CANCELLED, "the batch was cancelled before this request was done")

Numbered = tuple[int, Request]


def slices_of(
    path: Path, batch: Batch, most: int, step: Callable[[], None]
) -> Iterator[Sequence[Numbered]]:
    """Yield the lines after `batch.loaded`, with their numbers. `most`: bytes of a line.

    Blocks, and calls `step` before each line. Raises OSError, and Mistaken if the file is not the
    one that was validated.
    """
    found: list[Numbered] = []
    size = 0
    for line in lines_of(path, most):
        step()
        if line.number <= batch.loaded:
            continue
        request = read(line, batch.endpoint, most)
        found.append((line.number, request))
        size += len(request.body)
        if len(found) >= SLICE_LINES or size >= SLICE_BYTES:
            yield found
            found, size = [], 0
    if found:
        yield found


def queue(
    db: Database, batch: Batch, lines: Sequence[Numbered], end: End
) -> tuple[Batch, list[Found]]:
    """Queue a slice; its items end at once, as `end` says, if the batch was cancelled meanwhile.

    Returns the batch as it is then, and the items that have ended. Raises Lost.
    """
    ended: list[Found] = []
    batch = rows.held(db, batch)
    is_cancelled = batch.cancelling is not None
    items = [_item(batch, *one, without_body=is_cancelled) for one in lines]
    add(db, batch.owner, batch.principal, items)
    left = max(batch.reserved - len(lines), 0)
    rows.change(db, batch, loaded=lines[-1][0], reserved=left)
    if is_cancelled:
        ended = cancel_lines(db, batch.number, batch.loaded, CANCELLED_WITH_BATCH, end)
    return rows.held(db, batch), ended


def _item(batch: Batch, line: int, request: Request, without_body: bool) -> NewItem:
    return NewItem(
        id=f"batch_req_{secrets.token_hex(12)}",
        kind="line",
        path=batch.endpoint,
        model=request.model,
        body=b"" if without_body else request.body,
        priority=batch.priority,
        submitted=batch.created,
        deadline=batch.deadline,
        batch=batch.number,
        line=line,
        custom_id=request.custom_id,
        traceparent=batch.traceparent,
    )
