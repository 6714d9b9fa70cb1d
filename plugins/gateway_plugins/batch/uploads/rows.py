"""The rows of uploads and of their parts. Times are Unix seconds.

The row of a part comes before its content and goes after it, so that no content can be left.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway import BadRequest, Database, Value

SLICE = 500
"""Rows that one transaction of the cleaning changes."""

MAX_PARTS = 10_000
"""Parts of one upload."""

PENDING, COMPLETED, CANCELLED = "pending", "completed", "cancelled"
"""Values of an upload's `status`."""


class StoredUpload(msgspec.Struct, kw_only=True):
    """An upload of `bytes` in all, whose file is to expire after `seconds`. `file` is its id."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    created: float
    expires: float
    seconds: float | None
    status: str = PENDING
    file: str | None = None


class StoredPart(msgspec.Struct, kw_only=True):
    """A part of an upload. Its content is under its id."""

    id: str
    upload: str
    bytes: int
    created: float


_UPLOAD = StoredUpload.__struct_fields__
_PART = StoredPart.__struct_fields__


def add(db: Database, upload: StoredUpload, most: int) -> None:
    """Add an upload. Raises BadRequest if its owner has `most` of them that have not expired."""
    query = "SELECT count(*) FROM batch_uploads WHERE owner = :owner"
    [(count,)] = db.select(query, {"owner": upload.owner})
    if count >= most:
        message = f"this key has begun {most} uploads within the hour (batch.max_files_per_key)"
        raise BadRequest(message, code="too_many_files")
    _insert(db, "batch_uploads", upload)


def _insert(db: Database, table: str, row: StoredUpload | StoredPart) -> None:
    fields = row.__struct_fields__
    values = [getattr(row, name) for name in fields]
    db.insert(f"INSERT INTO {table} ({', '.join(fields)})", [values])


def find(db: Database, upload_id: str, owner: str | None, now: float) -> StoredUpload | None:
    """Return an upload that has not expired; `owner` None: anybody's."""
    where = "id = :id AND expires > :now" + ("" if owner is None else " AND owner = :owner")
    query = f"SELECT {', '.join(_UPLOAD)} FROM batch_uploads WHERE {where}"
    for row in list(db.select(query, {"id": upload_id, "owner": owner, "now": now})):
        return msgspec.convert(dict(zip(_UPLOAD, row, strict=True)), StoredUpload)
    return None


def room(db: Database, upload: StoredUpload) -> int:
    """Return how many more bytes the upload may have. Raises BadRequest if it has MAX_PARTS."""
    query = "SELECT count(*), coalesce(sum(bytes), 0) FROM batch_upload_parts WHERE upload = :id"
    [(count, size)] = db.select(query, {"id": upload.id})
    if count >= MAX_PARTS:
        raise BadRequest(f"an upload has at most {MAX_PARTS} parts")
    return max(upload.bytes - int(size), 0)


def add_part(db: Database, part: StoredPart) -> None:
    """Add a part, whose content comes into place now."""
    _insert(db, "batch_upload_parts", part)


def parts(db: Database, upload_id: str) -> list[StoredPart]:
    """Return the parts of an upload, in no order."""
    query = f"SELECT {', '.join(_PART)} FROM batch_upload_parts WHERE upload = :id"
    return [_part(row) for row in db.select(query, {"id": upload_id})]


def _part(row: Sequence[object]) -> StoredPart:
    return msgspec.convert(dict(zip(_PART, row, strict=True)), StoredPart)


def end(db: Database, upload_id: str, status: str, file_id: str | None = None) -> bool:
    """End an upload with `status`; False if it has ended already."""
    named: Mapping[str, Value] = {"id": upload_id, "status": status, "file": file_id}
    statement = (
        "UPDATE batch_uploads SET status = :status, file = :file"
        f" WHERE id = :id AND status = '{PENDING}'"
    )
    return db.execute(statement, named) == 1


def expired(db: Database, now: float) -> list[str]:
    """Return the ids of some uploads that have expired."""
    query = f"SELECT id FROM batch_uploads WHERE expires <= :now LIMIT {SLICE}"
    return [str(upload_id) for (upload_id,) in db.select(query, {"now": now})]


def forget_parts(db: Database, part_ids: Iterable[str]) -> None:
    """Remove the rows of parts whose contents are gone."""
    for part_id in part_ids:
        db.execute("DELETE FROM batch_upload_parts WHERE id = :id", {"id": part_id})


def forget(db: Database, upload_ids: Iterable[str]) -> None:
    """Remove the rows of uploads that have no parts any more."""
    for upload_id in upload_ids:
        db.execute("DELETE FROM batch_uploads WHERE id = :id", {"id": upload_id})
