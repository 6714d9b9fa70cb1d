"""Responses and conversations as rows, and their items; each function is used in one transaction.

Everything belongs to an owner, a key's principal; what is another's is not there.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway import Database, KeptItem, Value

Kind = Literal["response", "conversation"]

RUNNING = ("queued", "in_progress")
"""States of a response that has not ended."""

STALE = 30.0
"""Seconds without a sign of the process that runs a response, after which it is taken for dead."""


class Holder(msgspec.Struct, kw_only=True):
    """A row of `stored_holders`. `body` is the JSON object that callers get."""

    number: int
    owner: str
    id: str
    created: float
    session: str
    root: int | None
    previous: int | None
    status: str
    is_background: int
    has_events: int
    logged: int
    beat: float | None
    body: bytes

    @property
    def runs(self) -> bool:
        return self.status in RUNNING

    def died(self, now: float) -> bool:
        """Whether the process that ran it is gone."""
        return self.runs and (self.beat or 0.0) < now - STALE


class NewHolder(msgspec.Struct, kw_only=True):
    """A response or a conversation to keep; its items come in parts, the input first."""

    owner: str
    id: str
    kind: Kind
    created: float
    session: str
    body: bytes
    status: str = ""
    previous: int | None = None
    root: int | None = None
    is_background: bool = False
    has_events: bool = False


_FIELDS = ", ".join(Holder.__struct_fields__)
_ONE = f"SELECT {_FIELDS} FROM stored_holders WHERE owner = :owner AND id = :id AND kind = :kind"

_COLUMNS = (
    "owner, id, kind, created, used, session, root, previous, status, is_background, has_events,"
    " beat, body"
)


def find(db: Database, owner: str, kind: Kind, id_: str) -> Holder | None:
    for row in db.select(_ONE, {"owner": owner, "id": id_, "kind": kind}):
        return _holder(row)
    return None


def add(db: Database, new: NewHolder) -> int:
    """Add a row, or replace what may change of one with this id; return its number."""
    row = (
        *(new.owner, new.id, new.kind, new.created, new.created, new.session, new.root),
        *(new.previous, new.status, new.is_background, new.has_events, new.created, new.body),
    )
    db.insert(
        f"INSERT INTO stored_holders ({_COLUMNS})",
        [row],
        "ON CONFLICT (owner, id) DO UPDATE SET status = excluded.status, body = excluded.body",
    )
    found = find(db, new.owner, new.kind, new.id)
    assert found is not None
    return found.number


def set_body(db: Database, number: int, body: bytes, status: str) -> None:
    query = "UPDATE stored_holders SET body = :body, status = :status WHERE number = :number"
    db.execute(query, {"number": number, "body": body, "status": status})


def use(db: Database, root: int, now: float) -> None:
    """Note that responses that follow each other are in use, so that none of them is deleted."""
    query = "UPDATE stored_holders SET used = :now WHERE root = :root OR number = :root"
    db.execute(query, {"root": root, "now": now})


def delete(db: Database, numbers: Sequence[int]) -> None:
    for number in numbers:
        named = {"number": number}
        db.execute("DELETE FROM stored_holders WHERE number = :number", named)
        db.execute("DELETE FROM stored_items WHERE holder = :number", named)
        db.execute("DELETE FROM stored_events WHERE holder = :number", named)


def add_items(
    db: Database, holder: int, owner: str, items: Sequence[KeptItem], *, outputs: bool
) -> None:
    """Add items after those that are there."""
    query = "SELECT coalesce(max(place), -1) + 1 FROM stored_items WHERE holder = :holder"
    [(first,)] = db.select(query, {"holder": holder})
    rows = [
        (holder, place, owner, item.id, outputs, item.data)
        for place, item in enumerate(items, first)
    ]
    if rows:
        db.insert("INSERT INTO stored_items (holder, place, owner, id, is_output, data)", rows)


def count_items(db: Database, holder: int) -> int:
    query = "SELECT count(*) FROM stored_items WHERE holder = :holder"
    [(count,)] = db.select(query, {"holder": holder})
    return int(count)


class Page(msgspec.Struct, frozen=True):
    """Which items are wanted: at most `limit`, after the one with the id `after`."""

    limit: int = 20
    newest_first: bool = True
    after: str | None = None


def page(db: Database, holder: int, wanted: Page, *, inputs_only: bool) -> list[KeptItem]:
    """Return one item more than wanted, if there are more."""
    order, beyond = ("DESC", "<") if wanted.newest_first else ("ASC", ">")
    where = " AND is_output = 0" if inputs_only else ""
    named: dict[str, Value] = {"holder": holder, "limit": wanted.limit + 1}
    if wanted.after is not None:
        named["after"] = wanted.after
        where += f" AND place {beyond} (SELECT place FROM stored_items WHERE holder = :holder"
        where += " AND id = :after)"
    query = f"SELECT id, data FROM stored_items WHERE holder = :holder{where}"
    query += f" ORDER BY place {order} LIMIT :limit"
    return [KeptItem(id_, bytes(data)) for id_, data in db.select(query, named)]


def item(db: Database, holder: int, id_: str) -> bytes | None:
    query = "SELECT data FROM stored_items WHERE holder = :holder AND id = :id"
    for (data,) in db.select(query, {"holder": holder, "id": id_}):
        return bytes(data)
    return None


def referenced(db: Database, owner: str, id_: str) -> bytes | None:
    """Return an item of any response or conversation of the owner."""
    query = "SELECT data FROM stored_items WHERE owner = :owner AND id = :id LIMIT 1"
    for (data,) in db.select(query, {"owner": owner, "id": id_}):
        return bytes(data)
    return None


def delete_item(db: Database, holder: int, id_: str) -> int:
    query = "DELETE FROM stored_items WHERE holder = :holder AND id = :id"
    return db.execute(query, {"holder": holder, "id": id_})


_CHAIN = """
WITH RECURSIVE chain (number, previous, depth) AS (
    SELECT number, previous, 0 FROM stored_holders WHERE number = :last
    UNION ALL
    SELECT h.number, h.previous, c.depth + 1
    FROM chain AS c JOIN stored_holders AS h ON h.number = c.previous
    WHERE c.depth < :most
)
"""


class HistoryGone(Exception):
    """A response before this one was deleted, or there are too many of them."""


def history(db: Database, last: Holder, most: int) -> list[bytes]:
    """Return the items of a response and of all that it follows, the oldest first.

    Raises HistoryGone if one of the responses is not there, or if there are more than `most` items.
    """
    named: dict[str, Value] = {"last": last.number, "most": most}
    oldest = f"{_CHAIN} SELECT previous FROM chain ORDER BY depth DESC LIMIT 1"
    if any(previous is not None for (previous,) in db.select(oldest, named)):
        raise HistoryGone("a response that it follows was deleted")
    query = (
        f"{_CHAIN} SELECT i.data FROM chain AS c JOIN stored_items AS i ON i.holder = c.number"
        " ORDER BY c.depth DESC, i.place LIMIT :limit"
    )
    found = [bytes(data) for (data,) in db.select(query, {**named, "limit": most + 1})]
    if len(found) > most:
        raise HistoryGone(f"it follows more than {most} items (max_items)")
    return found


def items_of(db: Database, holder: int, most: int) -> list[bytes]:
    """Return the items of a conversation. Raises HistoryGone if there are more than `most`."""
    query = "SELECT data FROM stored_items WHERE holder = :holder ORDER BY place LIMIT :limit"
    found = [bytes(data) for (data,) in db.select(query, {"holder": holder, "limit": most + 1})]
    if len(found) > most:
        raise HistoryGone(f"it has more than {most} items (max_items)")
    return found


def beat(db: Database, number: int, now: float) -> None:
    """Note that a response still runs."""
    query = (
        "UPDATE stored_holders SET beat = :now, status = 'in_progress'"
        " WHERE number = :number AND status IN ('queued', 'in_progress')"
    )
    db.execute(query, {"number": number, "now": now})


def count_running(db: Database, owner: str, now: float) -> int:
    """Return how many responses of the owner run in the background."""
    query = (
        "SELECT count(*) FROM stored_holders WHERE owner = :owner"
        " AND status IN ('queued', 'in_progress') AND beat >= :stale"
    )
    [(count,)] = db.select(query, {"owner": owner, "stale": now - STALE})
    return int(count)


def add_events(db: Database, holder: int, first: int, events: Sequence[bytes]) -> None:
    if events:
        row = (holder, first, b"".join(events))
        again = "ON CONFLICT (holder, first) DO UPDATE SET data = excluded.data"
        db.insert("INSERT INTO stored_events (holder, first, data)", [row], again)


def set_logged(db: Database, holder: int) -> None:
    db.execute("UPDATE stored_holders SET logged = 1 WHERE number = :number", {"number": holder})


def events(db: Database, holder: int, after: int) -> list[bytes]:
    """Return the events of a response whose number is larger than `after`."""
    query = (
        "SELECT first, data FROM stored_events WHERE holder = :holder AND first >="
        " coalesce((SELECT max(first) FROM stored_events WHERE holder = :holder"
        " AND first <= :next), 0) ORDER BY first"
    )
    found: list[bytes] = []
    for first, data in db.select(query, {"holder": holder, "next": after + 1}):
        several = split(bytes(data))
        found += several[max(0, after + 1 - first) :]
    return found


def split(data: bytes) -> list[bytes]:
    """Return the events that `data` consists of."""
    return [event + b"\n\n" for event in data.split(b"\n\n") if event]


_OVER = "(status NOT IN ('queued', 'in_progress') OR beat < :stale)"
"""Whether a row is of nothing that still runs."""


def expired(db: Database, now: float, keep: float, limit: int) -> list[int]:
    """Return rows that were not used for `keep` seconds before `now`."""
    query = (
        f"SELECT number FROM stored_holders WHERE used < :before AND {_OVER}"
        " ORDER BY used LIMIT :limit"
    )
    named = {"before": now - keep, "stale": now - STALE, "limit": limit}
    return [number for (number,) in db.select(query, named)]


def surplus(db: Database, kind: Kind, most: int, now: float, limit: int) -> list[int]:
    """Return rows of owners that have more than `most` of a kind, those not used for longest."""
    query = (
        "SELECT owner, count(*) FROM stored_holders WHERE kind = :kind GROUP BY owner"
        " HAVING count(*) > :most"
    )
    found: list[int] = []
    for owner, count in list(db.select(query, {"kind": kind, "most": most})):
        some: dict[str, Value] = {"owner": owner, "kind": kind, "limit": min(count - most, limit)}
        oldest = (
            "SELECT number FROM stored_holders WHERE owner = :owner AND kind = :kind"
            f" AND {_OVER} ORDER BY used LIMIT :limit"
        )
        found += [number for (number,) in db.select(oldest, {**some, "stale": now - STALE})]
    return found


def _holder(row: Sequence[Value]) -> Holder:
    return msgspec.convert(dict(zip(Holder.__struct_fields__, row, strict=True)), Holder)
