"""The rows of batches. Times are Unix seconds."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gateway import Database, Value

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]


class Batch(msgspec.Struct, kw_only=True):
    """A batch as it is stored.

    `principal` is the row of its owner's principal. `metadata` and `errors` are JSON. `hours` is
    the completion window. `output_expires` are seconds. `holder` is the process that works on it.
    `loaded` is the number of the last line that is queued, `reserved` how many more are to be.
    `output_file` and `error_file` are known before the files are: they exist if it has `ended`.
    `traceparent` is the header of the request that created it.
    """

    number: int = 0
    id: str
    owner: str
    principal: int | None
    endpoint: str
    input_file: str
    hours: int
    digest: bytes | None
    metadata: str | None
    priority: int
    output_expires: float | None
    status: Status = "validating"
    holder: int | None = None
    created: float
    deadline: float
    in_progress: float | None = None
    finalizing: float | None = None
    ended: float | None = None
    cancelling: float | None = None
    errors: str | None = None
    model: str | None = None
    output_file: str | None = None
    error_file: str | None = None
    loaded: int = 0
    reserved: int = 0
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    traceparent: str | None = None

    @property
    def are_items_over(self) -> bool:
        return not self.reserved and self.completed + self.failed >= self.total


_FIELDS = Batch.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)

_FREE = """
(holder IS NULL OR holder = :holder OR holder NOT IN (SELECT number FROM batch_holders))
"""

_DUE = f"""
SELECT number FROM batches WHERE ended IS NULL AND {_FREE}
    AND (status != 'in_progress' OR reserved > 0 OR completed + failed >= total)
ORDER BY status = 'validating', number LIMIT :limit
"""


def add(db: Database, batch: Batch) -> None:
    values = [getattr(batch, name) for name in _FIELDS[1:]]
    db.insert(f"INSERT INTO batches ({', '.join(_FIELDS[1:])})", [values])


def find(db: Database, batch_id: str, owner: str | None) -> Batch | None:
    """Return a batch; `owner` None: anybody's."""
    where = "id = :id" + ("" if owner is None else " AND owner = :owner")
    return _first(db, where, {"id": batch_id, "owner": owner})


def get(db: Database, number: int) -> Batch | None:
    return _first(db, "number = :number", {"number": number})


def newest(db: Database, owner: str | None, before: int | None, limit: int) -> list[Batch]:
    """Return at most `limit` batches, the newest first, that are older than number `before`."""
    wanted = [
        condition
        for condition, value in (("owner = :owner", owner), ("number < :before", before))
        if value is not None
    ]
    where = " AND ".join(wanted) or "1 = 1"
    query = f"SELECT {_COLUMNS} FROM batches WHERE {where} ORDER BY number DESC LIMIT :limit"
    named: dict[str, Value] = {"owner": owner, "before": before, "limit": limit}
    return [_batch(row) for row in db.select(query, named)]


def repeated(db: Database, owner: str, digest: bytes, since: float) -> Batch | None:
    """Return the newest batch that the same request has created since then."""
    where = "owner = :owner AND digest = :digest AND created >= :since ORDER BY number DESC LIMIT 1"
    return _first(db, where, {"owner": owner, "digest": digest, "since": since})


def _first(db: Database, where: str, named: Mapping[str, Value]) -> Batch | None:
    for row in list(db.select(f"SELECT {_COLUMNS} FROM batches WHERE {where}", named)):
        return _batch(row)
    return None


def _batch(row: Sequence[object]) -> Batch:
    return Batch(**dict(zip(_FIELDS, row, strict=True)))  # type: ignore[arg-type]


def due(db: Database, holder: int, limit: int) -> list[int]:
    """Return batches with work to do that no other process does, not validated ones at the end."""
    return [number for (number,) in db.select(_DUE, {"holder": holder, "limit": limit})]


def claim(db: Database, number: int, holder: int) -> Batch | None:
    """Make `holder` work on a batch; None if another process does, or if it has ended."""
    where = f"number = :number AND ended IS NULL AND {_FREE}"
    named = {"number": number, "holder": holder}
    if not db.execute(f"UPDATE batches SET holder = :holder WHERE {where}", named):
        return None
    return get(db, number)


class Lost(Exception):
    """Another process works on the batch now: this one was taken for ended."""


def change(db: Database, batch: Batch, **values: Value) -> None:
    """Store new values of a batch that its holder works on. Raises Lost."""
    changes = ", ".join(f"{name} = :{name}" for name in values)
    statement = (
        f"UPDATE batches SET {changes} WHERE number = :of AND holder = :by AND ended IS NULL"
    )
    if not db.execute(statement, {**values, "of": batch.number, "by": batch.holder}):
        raise Lost


def held(db: Database, batch: Batch) -> Batch:
    """Return a batch as it is now. Raises Lost if its holder is another by now."""
    now = get(db, batch.number)
    if now is None or now.holder != batch.holder or now.ended is not None:
        raise Lost
    return now


def cancel(db: Database, number: int, now: float) -> None:
    """Begin to cancel a batch that has not ended its items yet; whoever holds it goes on so."""
    where = "number = :number AND status IN ('validating', 'in_progress')"
    statement = f"UPDATE batches SET status = 'cancelling', cancelling = :now WHERE {where}"
    db.execute(statement, {"number": number, "now": now})


def release(db: Database, batch: Batch) -> None:
    """Let any process work on the batch."""
    statement = "UPDATE batches SET holder = NULL WHERE number = :number AND holder = :holder"
    db.execute(statement, {"number": batch.number, "holder": batch.holder})


def delete_ended(db: Database, before: float, limit: int) -> int:
    """Delete batches that ended before then and have no items any more; return how many."""
    statement = (
        "DELETE FROM batches WHERE number IN (SELECT number FROM batches AS b WHERE ended < :before"
        " AND NOT EXISTS (SELECT 1 FROM batch_items WHERE batch = b.number) LIMIT :limit)"
    )
    return db.execute(statement, {"before": before, "limit": limit})
