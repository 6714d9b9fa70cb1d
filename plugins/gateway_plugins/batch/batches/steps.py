"""What the database says of a batch after each of its steps.

Each function is part of a transaction, and raises Lost if the batch's holder is another by now.
"""

import time

import msgspec

from gateway import Database, Value
from gateway_plugins.batch.batches import rows
from gateway_plugins.batch.batches.input.checking import Mistake
from gateway_plugins.batch.batches.input.validating import Findings
from gateway_plugins.batch.batches.results import Written
from gateway_plugins.batch.batches.rows import Batch, Status
from gateway_plugins.batch.files import rows as files
from gateway_plugins.batch.files.folder import file_id
from gateway_plugins.batch.files.rows import StoredFile

INPUT_LOST = Mistake("input_file_lost", "the content of the input file is gone, or has changed")
"""What a batch tells if somebody else than the gateway has changed the folder of files."""


def validated(db: Database, batch: Batch, found: Findings) -> bool:
    """Begin to run a valid batch, end any other; True if its input may be deleted."""
    batch = rows.held(db, batch)
    is_cancelled = batch.cancelling is not None
    if found.mistakes:
        errors = msgspec.json.encode(found.mistakes).decode()
        return end(db, batch, "cancelled" if is_cancelled else "failed", errors=errors)
    if not is_cancelled:
        rows.change(db, batch, status="in_progress", in_progress=time.time())
    rows.change(db, batch, total=found.lines, reserved=found.lines, model=found.model)
    return False


def cut(db: Database, batch: Batch) -> bool:
    """Do without the lines that are not queued yet, because their file is lost."""
    batch = rows.held(db, batch)
    errors = msgspec.json.encode([INPUT_LOST]).decode()
    rows.change(db, batch, total=batch.total - batch.reserved, reserved=0, errors=errors)
    return False


def finalizing(db: Database, batch: Batch) -> bool:
    """Choose the files of results; a batch that had its time and ends now is `finalizing`.

    A batch that is finalized again, after a process was killed, keeps the files.
    """
    batch, now = rows.held(db, batch), time.time()
    if batch.output_file is None:
        rows.change(db, batch, output_file=file_id(), error_file=file_id())
    if batch.status == "in_progress" and now < batch.deadline:
        rows.change(db, batch, status="finalizing", finalizing=now)
    return False


def finished(db: Database, batch: Batch, written: Written, keep: float) -> bool:
    """End a batch whose results are written; they are kept for `keep` seconds by default.

    True if its input may be deleted.
    """
    batch = rows.held(db, batch)
    status: Status = "expired" if written.expired else "completed"
    if batch.cancelling is not None:
        status = "cancelled"
    kept = batch.output_expires or keep
    output = _add_file(db, batch, batch.output_file, "output", written.output, kept)
    errors = _add_file(db, batch, batch.error_file, "error", written.errors, kept)
    return end(db, batch, status, output_file=output, error_file=errors)


def _add_file(
    db: Database, batch: Batch, id_: str | None, word: str, size: int | None, kept: float
) -> str | None:
    """Add a file of results; return its id, None if there is none because it has no lines."""
    if id_ is None or size is None:
        return None
    now = time.time()
    file = StoredFile(
        id=id_,
        owner=batch.owner,
        filename=f"{batch.id}_{word}.jsonl",
        purpose="batch_output",
        bytes=size,
        created=now,
        expires=now + kept,
    )
    files.add(db, file)
    return id_


def end(db: Database, batch: Batch, status: Status, **values: Value) -> bool:
    """End a batch; True if the content of its input may be deleted."""
    now = time.time()
    rows.change(db, batch, status=status, ended=now, holder=None, reserved=0, **values)
    return files.release(db, batch.input_file)
