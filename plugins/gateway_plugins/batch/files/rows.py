"""The rows of files. Times are Unix seconds.

A row comes before its content and goes after it, so that no content can be left without one: a row
is `deleted` while its content is not in place yet, and while it is not gone yet.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway import BadRequest, Database, Value

PENDING = 3_600.0
"""Seconds after which a row whose content has not come into place is taken for abandoned."""

SLICE = 500
"""Rows that one transaction of the cleaning changes."""


class StoredFile(msgspec.Struct, kw_only=True):
    """A file whose content is in the folder. `users` counts the unfinished batches that read it.

    A file that is `deleted` while it has users is gone for its owner, and its content stays until
    the last user has ended.
    """

    number: int = 0
    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    created: float
    expires: float | None
    users: int = 0
    deleted: int = 0


class Page(msgspec.Struct, frozen=True):
    """Which files to list: those of `owner` (None: of all) after the id `after`, newest first."""

    owner: str | None
    limit: int
    after: str | None = None
    purpose: str | None = None
    ascending: bool = False


_FIELDS = StoredFile.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_SELECT = f"SELECT {_COLUMNS} FROM batch_files WHERE "
_PRESENT = "deleted = 0 AND (expires IS NULL OR expires > :now)"
_GONE = "deleted = 1 AND users <= 0 AND (expires IS NULL OR expires <= :now)"


def add(db: Database, file: StoredFile) -> None:
    """Add a file whose content is in its place."""
    values = [getattr(file, name) for name in _FIELDS[1:]]
    db.insert(f"INSERT INTO batch_files ({', '.join(_FIELDS[1:])})", [values])


def announce(db: Database, file: StoredFile, most: int) -> None:
    """Add a file whose content comes into place now; nobody sees it before `publish`.

    Raises BadRequest if its owner has `most` files already.
    """
    check_room(db, file.owner, most)
    abandoned = file.created + PENDING
    add(db, msgspec.structs.replace(file, deleted=1, expires=abandoned))


def check_room(db: Database, owner: str, most: int) -> None:
    """Raise BadRequest if the owner has `most` files."""
    query = "SELECT count(*) FROM batch_files WHERE owner = :owner"
    [(count,)] = db.select(query, {"owner": owner})
    if count >= most:
        message = f"there are {most} files of this key already (batch.max_files_per_key)"
        raise BadRequest(f"{message}: delete some", code="too_many_files")


def publish(db: Database, file: StoredFile) -> bool:
    """Show an announced file; False if it was taken for abandoned."""
    named: Mapping[str, Value] = {"id": file.id, "expires": file.expires}
    statement = "UPDATE batch_files SET deleted = 0, expires = :expires WHERE id = :id"
    return db.execute(statement, named) == 1


def find(db: Database, file_id: str, owner: str | None) -> StoredFile | None:
    """Return a file that is not deleted; `owner` None: anybody's."""
    named: dict[str, Value] = {"id": file_id, "owner": owner, "now": time.time()}
    found = _read(db, f"id = :id AND {_PRESENT}{_of(owner)}", named)
    return found[0] if found else None


def page(db: Database, wanted: Page) -> list[StoredFile]:
    """Return the files of a page, and one more if there are more."""
    where = f"{_PRESENT}{_of(wanted.owner)}"
    where += "" if wanted.purpose is None else " AND purpose = :purpose"
    if wanted.after is not None:
        where += " AND id > :after" if wanted.ascending else " AND id < :after"
    named: dict[str, Value] = {
        "now": time.time(),
        "owner": wanted.owner,
        "purpose": wanted.purpose,
        "after": wanted.after,
        "limit": wanted.limit + 1,
    }
    order = "ASC" if wanted.ascending else "DESC"
    return _read(db, f"{where} ORDER BY id {order} LIMIT :limit", named)


def _of(owner: str | None) -> str:
    return "" if owner is None else " AND owner = :owner"


def _read(db: Database, where: str, named: Mapping[str, Value]) -> list[StoredFile]:
    return [_file(row) for row in db.select(_SELECT + where, named)]


def _file(row: Sequence[object]) -> StoredFile:
    return msgspec.convert(dict(zip(_FIELDS, row, strict=True)), StoredFile)


def hold(db: Database, file_id: str) -> None:
    """Keep the content for one more batch."""
    db.execute("UPDATE batch_files SET users = users + 1 WHERE id = :id", {"id": file_id})


def release(db: Database, file_id: str) -> bool:
    """Let go of the content; True if nobody needs it any more, so that it may be deleted."""
    named = {"id": file_id}
    db.execute("UPDATE batch_files SET users = users - 1 WHERE id = :id", named)
    return _is_unused(db, file_id)


def delete(db: Database, file_id: str) -> bool:
    """Delete a file; True if its content may be deleted, too."""
    delete = "UPDATE batch_files SET deleted = 1, expires = NULL WHERE id = :id"
    db.execute(delete, {"id": file_id})
    return _is_unused(db, file_id)


def _is_unused(db: Database, file_id: str) -> bool:
    query = "SELECT 1 FROM batch_files WHERE id = :id AND users <= 0 AND deleted = 1"
    return bool(list(db.select(query, {"id": file_id})))


def expire(db: Database, now: float) -> None:
    """Delete the files that have expired."""
    statement = (
        "UPDATE batch_files SET deleted = 1, expires = NULL WHERE deleted = 0 AND expires <= :now"
    )
    db.execute(statement, {"now": now})


def gone(db: Database, now: float) -> list[str]:
    """Return the ids of some files whose contents nobody needs any more."""
    query = f"SELECT id FROM batch_files WHERE {_GONE} LIMIT {SLICE}"
    return [str(file_id) for (file_id,) in db.select(query, {"now": now})]


def forget(db: Database, file_ids: Iterable[str]) -> None:
    """Remove the rows of deleted files, whose contents are gone."""
    statement = "DELETE FROM batch_files WHERE id = :id AND deleted = 1 AND users <= 0"
    for file_id in file_ids:
        db.execute(statement, {"id": file_id})
