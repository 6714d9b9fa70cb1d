"""The rows of uploads."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from gateway import Database, Value

SLICE = 500
"""Rows that one transaction of the cleaning changes."""

UPLOADING, VERIFYING, INSTALLING = "uploading", "verifying", "installing"
COMPLETED, FAILED, EXPIRED = "completed", "failed", "expired"
"""Values of `status`."""

OVER = frozenset((COMPLETED, FAILED, EXPIRED))
"""Those of uploads that do not change any more."""

Replaces = Literal["", "own", "any"]
"""Whether a model of the same name may be replaced: not at all, that of the same owner, any."""

PARTIAL = "partial"
"""Value of `concat` of an upload that is to be part of another."""


class Upload(msgspec.Struct, kw_only=True):
    """An upload, as the table `uploads` has it; see the module of the table."""

    id: str
    owner: str
    status: str = UPLOADING
    model: str | None = None
    length: int | None = None
    received: int = 0
    kept_to: int | None = None
    metadata: str = ""
    concat: str = ""
    parts: str = ""
    final: str = ""
    filename: str = ""
    replaces: Replaces = ""
    expected: str = ""
    sha256: str | None = None
    code: str | None = None
    error: str | None = None
    created: float
    expires: float

    @property
    def is_partial(self) -> bool:
        return self.concat == PARTIAL

    @property
    def is_final(self) -> bool:
        return bool(self.parts)

    @property
    def content(self) -> list[str]:
        """The ids of the uploads whose files have the bytes, in order."""
        return self.parts.split() or [self.id]


_FIELDS = Upload.__struct_fields__
_SELECT = f"SELECT {', '.join(_FIELDS)} FROM uploads"


def add(db: Database, upload: Upload) -> None:
    """Add an upload."""
    values = [getattr(upload, name) for name in _FIELDS]
    db.insert(f"INSERT INTO uploads ({', '.join(_FIELDS)})", [values])


def find(db: Database, upload_id: str, owner: str | None) -> Upload | None:
    """Return an upload; `owner` None: anybody's."""
    where = "id = :id" + ("" if owner is None else " AND owner = :owner")
    return next(iter(_read(db, where, {"id": upload_id, "owner": owner})), None)


def find_final(db: Database, upload: Upload) -> Upload | None:
    """Return the final upload of the same owner that was made of the same parts before."""
    named = {"owner": upload.owner, "parts": upload.parts, "metadata": upload.metadata}
    where = "owner = :owner AND parts = :parts AND metadata = :metadata"
    return next(iter(_read(db, where, named)), None)


def count_open(db: Database, owner: str) -> int:
    """Return the number of an owner's uploads that have not ended."""
    query = f"SELECT count(*) FROM uploads WHERE owner = :owner AND status = '{UPLOADING}'"
    [(count,)] = db.select(query, {"owner": owner})
    return int(count)


def change(db: Database, upload_id: str, status: str, changes: Mapping[str, Value]) -> bool:
    """Change the fields of an upload that still has a status; False if it has another."""
    assert changes.keys() <= set(_FIELDS)
    sets = ", ".join(f"{name} = :{name}" for name in changes)
    named = {**changes, "own_id": upload_id, "own_status": status}
    where = "id = :own_id AND status = :own_status"
    return db.execute(f"UPDATE uploads SET {sets} WHERE {where}", named) == 1


def claim(db: Database, part_ids: Iterable[str], final: str) -> None:
    """Make uploads the parts of a final one."""
    for part_id in part_ids:
        named = {"id": part_id, "final": final}
        db.execute("UPDATE uploads SET final = :final WHERE id = :id", named)


def waiting(db: Database) -> list[Upload]:
    """Return the uploads that are to be installed, in the order of their creation."""
    where = f"status IN ('{VERIFYING}', '{INSTALLING}') ORDER BY created"
    return _read(db, where, {})


def uploading(db: Database) -> list[Upload]:
    """Return the uploads that wait for bytes."""
    return _read(db, f"status = '{UPLOADING}'", {})


def newest(db: Database, limit: int) -> list[Upload]:
    """Return at most `limit` uploads: those that have not ended, then those that ended last."""
    running = f"status IN ('{UPLOADING}', '{VERIFYING}', '{INSTALLING}') ORDER BY created DESC"
    ended = f"status IN ('{COMPLETED}', '{FAILED}', '{EXPIRED}') ORDER BY expires DESC"
    found = _read(db, f"{running} LIMIT :limit", {"limit": limit})
    return found + _read(db, f"{ended} LIMIT :limit", {"limit": limit - len(found)})


def expired(db: Database, now: float) -> list[Upload]:
    """Return some uploads that have expired, and whose bytes nobody needs."""
    where = (
        f"expires <= :now AND (status = '{UPLOADING}' OR"
        f" (concat = '{PARTIAL}' AND final = '' AND status = '{COMPLETED}')) LIMIT {SLICE}"
    )
    return _read(db, where, {"now": now})


def forget(db: Database, before: float) -> int:
    """Remove the rows of some uploads that have ended, and whose results expired before a time."""
    chosen = (
        f"SELECT id FROM uploads WHERE status IN ('{COMPLETED}', '{FAILED}', '{EXPIRED}')"
        f" AND expires <= :before LIMIT {SLICE}"
    )
    return db.execute(f"DELETE FROM uploads WHERE id IN ({chosen})", {"before": before})


def remove(db: Database, upload_id: str) -> None:
    """Remove the row of an upload."""
    db.execute("DELETE FROM uploads WHERE id = :id", {"id": upload_id})


def needing_bytes(db: Database) -> set[str]:
    """Return the ids of the uploads whose files are needed."""
    query = (
        f"SELECT id FROM uploads WHERE status NOT IN ('{COMPLETED}', '{FAILED}', '{EXPIRED}')"
        f" OR (concat = '{PARTIAL}' AND status = '{COMPLETED}' AND (final = '' OR final IN ("
        f"SELECT id FROM uploads WHERE status IN ('{VERIFYING}', '{INSTALLING}'))))"
    )
    return {str(upload_id) for (upload_id,) in db.select(query)}


def _read(db: Database, where: str, named: Mapping[str, Value]) -> list[Upload]:
    rows = db.select(f"{_SELECT} WHERE {where}", named)
    return [msgspec.convert(dict(zip(_FIELDS, row, strict=True)), Upload) for row in rows]
