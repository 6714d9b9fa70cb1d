"""The requests of an evaluation: which of them are queued, and how each ended."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import zstandard

from gateway import Database, Value

WAITING, QUEUED, COMPLETED, FAILED, CANCELED = range(5)
"""Values of an item's `state`. A waiting one is not in the queue yet."""

STATES = ("waiting", "queued", "completed", "failed", "canceled")
"""The words for them."""

MISSING = "missing"
"""Code, and error, of an item of which nothing is known any more."""


class Item(msgspec.Struct, kw_only=True):
    """A row of `eval_items`: `at` and `size` are where its body is in the file of bodies.

    `tries` are the calls for it, `status` that of the latest response, `code` and `error` say why
    it failed.
    """

    place: int
    state: int
    attempt: int
    at: int
    size: int
    status: int | None
    tries: int
    code: str | None
    error: str | None

    def id(self, job_id: str, run_place: int) -> str:
        """Return its id in the queue."""
        return f"{job_id}-{run_place}-{self.place}-{self.attempt}"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How an item ended; `answer` is the body of its response."""

    place: int
    state: int
    status: int | None = None
    tries: int = 0
    code: str | None = None
    error: str | None = None
    answer: bytes | None = None


_NEXT = "UPDATE eval_runs SET generation = generation + 1 WHERE number = :run"

_ITEM = f"SELECT {', '.join(Item.__struct_fields__)} FROM eval_items WHERE run = :run"


def clear(db: Database, run: int) -> None:
    """Delete the items of an evaluation; those that are added later have other ids."""
    db.execute(_NEXT, {"run": run})
    for table in ("eval_items", "eval_answers"):
        db.execute(f"DELETE FROM {table} WHERE run = :run", {"run": run})


def add(db: Database, run: int, rows: Sequence[tuple[int, int, int]]) -> None:
    """Add items: for each its place, and where its body is."""
    query = "SELECT generation FROM eval_runs WHERE number = :run"
    [(generation,)] = db.select(query, {"run": run})
    made = [(run, generation, *row) for row in rows]
    db.insert("INSERT INTO eval_items (run, attempt, place, at, size)", made)


def prepared(db: Database, run: int, total: int, most: int | None) -> None:
    """Note that all items of an evaluation are there."""
    query = (
        "UPDATE eval_runs SET total = :total, max_concurrency = :most, has_items = 1"
        " WHERE number = :run"
    )
    db.execute(query, {"run": run, "total": total, "most": most})


def in_state(db: Database, run: int, state: int, limit: int) -> list[Item]:
    """Return the first items in a state, in their order."""
    query = f"{_ITEM} AND state = :state ORDER BY place LIMIT :limit"
    return list(_items(db, query, {"run": run, "state": state, "limit": limit}))


def page(db: Database, run: int, after: int, limit: int, state: int | None = None) -> list[Item]:
    """Return items whose place is larger than `after`."""
    where = "" if state is None else " AND state = :state"
    query = f"{_ITEM} AND place > :after{where} ORDER BY place LIMIT :limit"
    named = {"run": run, "after": after, "limit": limit, "state": state}
    return list(_items(db, query, named))


def counts(db: Database, run: int) -> dict[str, int]:
    """Return how many items are in each state, by its word."""
    query = "SELECT state, count(*) FROM eval_items WHERE run = :run GROUP BY state"
    found = {STATES[state]: number for state, number in db.select(query, {"run": run})}
    return {word: found.get(word, 0) for word in STATES}


def tally(db: Database, run: int) -> None:
    """Note with the evaluation how many of its items completed, and how many did not."""
    found = counts(db, run)
    failed = found["failed"] + found["canceled"]
    query = "UPDATE eval_runs SET completed = :completed, failed = :failed WHERE number = :run"
    db.execute(query, {"run": run, "completed": found["completed"], "failed": failed})


def queued(db: Database, run: int, places: Sequence[int]) -> None:
    """Note that waiting items are in the queue."""
    query = (
        "UPDATE eval_items SET state = 1 WHERE run = :run AND state = 0"
        " AND place BETWEEN :first AND :last"
    )
    if places:
        db.execute(query, {"run": run, "first": places[0], "last": places[-1]})


_END = """
UPDATE eval_items SET state = :state, status = :status, tries = :tries, code = :code, error = :error
WHERE run = :run AND place = :place AND state = 1
"""


def end(db: Database, run: int, ends: Sequence[End]) -> None:
    """Store how queued items ended."""
    answers = []
    for one in ends:
        named: dict[str, Value] = {
            "run": run,
            "place": one.place,
            "state": one.state,
            "status": one.status,
            "tries": one.tries,
            "code": one.code,
            "error": one.error,
        }
        if db.execute(_END, named) == 1 and one.answer is not None:
            answers.append((run, one.place, pack(one.answer)))
    if answers:
        conflict = "ON CONFLICT (run, place) DO UPDATE SET answer = excluded.answer"
        db.insert("INSERT INTO eval_answers (run, place, answer)", answers, conflict)


def again(db: Database, run: int) -> int:
    """Let all items that failed or were canceled run again; return how many."""
    db.execute(_NEXT, {"run": run})
    query = (
        "UPDATE eval_items SET state = 0, status = NULL, tries = 0, code = NULL, error = NULL,"
        " attempt = (SELECT generation FROM eval_runs WHERE number = :run)"
        " WHERE run = :run AND state IN (3, 4)"
    )
    return db.execute(query, {"run": run})


def answers(db: Database, run: int, first: int, last: int) -> dict[int, bytes]:
    """Return the responses to the items from `first` to `last`, by their places."""
    query = (
        "SELECT place, answer FROM eval_answers WHERE run = :run AND place BETWEEN :first AND :last"
    )
    rows = db.select(query, {"run": run, "first": first, "last": last})
    return {place: unpack(answer) for place, answer in rows}


def to_cancel(db: Database, limit: int) -> list[tuple[int, int, str, Item]]:
    """Return queued items of evaluations that were canceled or failed, each after the numbers of
    its evaluation and the evaluation's place, and the id of its job."""
    columns = ", ".join(f"i.{name}" for name in Item.__struct_fields__)
    query = (
        f"SELECT r.number, r.place, j.id, {columns} FROM eval_runs AS r"
        " JOIN eval_jobs AS j ON j.number = r.job"
        " JOIN eval_items AS i ON i.run = r.number AND i.state = 1"
        " WHERE r.has_items = 1 AND r.state IN ('canceled', 'failed') LIMIT :limit"
    )
    rows = db.select(query, {"limit": limit})
    return [(run, place, job_id, _item(row)) for run, place, job_id, *row in rows]


def all_counts(db: Database) -> dict[str, int]:
    """Return how many items of evaluations that have not ended are in each state."""
    query = (
        "SELECT i.state, count(*) FROM eval_runs AS r JOIN eval_items AS i ON i.run = r.number"
        " WHERE r.ended IS NULL GROUP BY i.state"
    )
    found = {STATES[state]: number for state, number in db.select(query)}
    return {word: found.get(word, 0) for word in STATES}


def forget(db: Database, ended_before: float) -> list[tuple[str, int]]:
    """Delete the items of evaluations that ended before that; return their jobs and places."""
    query = (
        "SELECT r.number, j.id, r.place FROM eval_runs AS r JOIN eval_jobs AS j ON j.number = r.job"
        " WHERE r.has_items = 1 AND r.ended < :before LIMIT 100"
    )
    found = list(db.select(query, {"before": ended_before}))
    for number, _, _ in found:
        clear(db, number)
        db.execute("UPDATE eval_runs SET has_items = 0 WHERE number = :run", {"run": number})
    return [(job_id, place) for _, job_id, place in found]


def pack(answer: bytes) -> bytes:
    """Return a response as it is stored."""
    return zstandard.ZstdCompressor(level=1).compress(answer)


def unpack(packed: bytes) -> bytes:
    """Return a response as it came."""
    return zstandard.ZstdDecompressor().decompress(packed)


def _items(db: Database, query: str, named: Mapping[str, Value]) -> Iterator[Item]:
    for row in db.select(query, dict(named)):
        yield _item(row)


def _item(row: Sequence[Value]) -> Item:
    return msgspec.convert(dict(zip(Item.__struct_fields__, row, strict=True)), Item)
