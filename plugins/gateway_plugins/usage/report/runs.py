"""Usage of each run: over the calls that the ledger still has."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway import ControlRequest, Database, Host
from gateway_plugins.usage.ledger.schema import COUNT_OF_A_CALL, COUNTS, DAY_OF_A_CALL, WAY
from gateway_plugins.usage.report.flushing import flush
from gateway_plugins.usage.report.queries import Values, Wanted, values

_SUMS = ", ".join(f"sum({COUNT_OF_A_CALL[name]}) AS {name}" for name in COUNTS)

_COLUMNS = {name: name for name in ("run", *WAY)} | {"day": DAY_OF_A_CALL}
"""The SQL for each column that sums of runs can be grouped by."""


class RunQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`run`: only this one; `cursor`: only runs that come after this one by their names."""

    run: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    cursor: str | None = None


class RunPage(msgspec.Struct):
    """A row for each run and model; `next_cursor` is set if more runs follow."""

    data: list[Values]
    next_cursor: str | None = None
    object: str = "list"


class RunUsageRoute:
    """GET /monitor/run_usage."""

    def __init__(self, gateway: Host) -> None:
        self._storage = gateway.storage

    async def show(self, request: ControlRequest) -> RunPage:
        query = request.query(RunQuery)
        await flush(self._storage)
        return await self._storage.read(lambda db: _page(db, query))


def _page(db: Database, query: RunQuery) -> RunPage:
    after = {"after": query.cursor or "", "run": query.run, "rows": query.limit + 1}
    rows = db.select(
        "SELECT DISTINCT run FROM usage_runs WHERE run > :after AND (:run IS NULL OR run = :run)"
        " ORDER BY run LIMIT :rows",
        after,
    )
    found = [str(run) for (run,) in rows]
    shown = found[: query.limit]
    data = [row for run in shown for row in run_sums(db, ("run", "model"), Wanted(), run)]
    return RunPage(data, shown[-1] if len(found) > query.limit else None)


def run_sums(
    db: Database, by: Sequence[str], wanted: Wanted, run: str | None = None
) -> Iterator[Values]:
    """Yield a row for each combination of values of the columns `by`, sorted by them.

    Of calls that have a run, or of those of `run`; of those only that are `wanted`.
    """
    columns = ", ".join(f"{_COLUMNS[name]} AS {name}" for name in by)
    given = [
        condition
        for condition, value in (
            ("run = :run", run),
            ("key = :key", wanted.key),
            (f"{DAY_OF_A_CALL} >= :since", wanted.since),
            (f"{DAY_OF_A_CALL} <= :until", wanted.until),
        )
        if value is not None
    ]
    places = ", ".join(str(place + 1) for place in range(len(by)))
    query = (
        f"SELECT {columns}, {_SUMS} FROM usage_runs JOIN usage_calls USING (id)"
        f" WHERE {' AND '.join(given) or '1 = 1'} GROUP BY {places} ORDER BY {places}"
    )
    for row in db.select(query, {"run": run, **msgspec.structs.asdict(wanted)}):
        yield values(by, row)
