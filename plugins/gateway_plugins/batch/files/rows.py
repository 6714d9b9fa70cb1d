"""The rows of files. Times are Unix seconds."""

from collections.abc import Sequence

import msgspec

from gateway import Database


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


_FIELDS = StoredFile.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)


def add(db: Database, file: StoredFile) -> None:
    """Add a file whose content is in its place."""
    values = [getattr(file, name) for name in _FIELDS[1:]]
    db.insert(f"INSERT INTO batch_files ({', '.join(_FIELDS[1:])})", [values])


def find(db: Database, file_id: str, owner: str | None) -> StoredFile | None:
    """Return a file that is not deleted; `owner` None: anybody's."""
    where = "id = :id AND deleted = 0" + ("" if owner is None else " AND owner = :owner")
    query = f"SELECT {_COLUMNS} FROM batch_files WHERE {where}"
    for row in list(db.select(query, {"id": file_id, "owner": owner})):
        return _file(row)
    return None


def _file(row: Sequence[object]) -> StoredFile:
    return msgspec.convert(dict(zip(_FIELDS, row, strict=True)), StoredFile)


def hold(db: Database, file_id: str) -> None:
    """Keep the content for one more batch."""
    db.execute("UPDATE batch_files SET users = users + 1 WHERE id = :id", {"id": file_id})


def release(db: Database, file_id: str) -> bool:
    """Let go of the content; True if nobody needs it any more, and its row is deleted."""
    named = {"id": file_id}
    db.execute("UPDATE batch_files SET users = users - 1 WHERE id = :id", named)
    gone = "DELETE FROM batch_files WHERE id = :id AND users <= 0 AND deleted = 1"
    return db.execute(gone, named) == 1


def delete(db: Database, file_id: str) -> bool:
    """Delete a file; True if its content may be deleted, too."""
    named = {"id": file_id}
    if db.execute("DELETE FROM batch_files WHERE id = :id AND users <= 0", named):
        return True
    db.execute("UPDATE batch_files SET deleted = 1 WHERE id = :id", named)
    return False
