"""GET /monitor/calls: the calls of one day, the newest first."""

import calendar
import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway import BadRequest, ControlRequest, Database, Host, Value
from gateway_plugins.usage.ledger.retention import call_id_at
from gateway_plugins.usage.ledger.sums import DAY
from gateway_plugins.usage.report.flushing import flush

OUTCOMES = ("success", "error", "aborted")
"""Words for the values of `outcome`."""


class CallsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which calls; None: any. `after` is the `trace_id` of the last call of the page before.

    A parameter `key` would be taken for a secret in an address, which the dashboard refuses.
    """

    day: Annotated[str, Meta(pattern=r"^[0-9]{8}\Z")]
    key_id: str | None = None
    model: str | None = None
    source: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    after: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] | None = None


class CountedCall(msgspec.Struct, frozen=True):
    """A call as it was counted. `time` is its arrival in Unix seconds; `trace_id` names its trace,
    if there is one. `repeated`: its work ran again in another call, so it is no request."""

    trace_id: str
    time: float
    key: str
    model: str
    worker: str
    source: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    counted: bool
    repeated: bool


class CallPage(msgspec.Struct):
    """A page of calls. `next` is the `after` of the next page, None if this is the last.

    `kept_from`: the first day from which calls are kept, None if none were deleted yet.
    """

    day: str
    data: list[CountedCall]
    next: str | None
    kept_from: str | None
    object: str = "list"


class CallsRoute:
    """The route."""

    def __init__(self, gateway: Host) -> None:
        self._storage = gateway.storage

    async def show(self, request: ControlRequest) -> CallPage:
        query = request.query(CallsQuery)
        begins = _begin_of(query.day)
        await flush(self._storage)
        return await self._storage.read(lambda db: _page(db, query, begins))


def _begin_of(day: str) -> int:
    """Return when a day begins, in Unix seconds. Raises BadRequest if there is no such day."""
    try:
        return calendar.timegm(time.strptime(day, "%Y%m%d"))
    except ValueError:
        raise BadRequest(f"there is no day {day}", param="day") from None


_CALLS = """
SELECT id, time, key, model, worker, source, outcome, prompt_tokens, completion_tokens,
    cached_tokens, reasoning_tokens, counted, repeated
FROM usage_calls
WHERE id >= :first AND id < :last AND time >= :begins AND time < :ends
    AND (:key IS NULL OR key = :key) AND (:model IS NULL OR model = :model)
    AND (:source IS NULL OR source = :source)
ORDER BY id DESC LIMIT :rows
"""
"""An id begins with the milliseconds of the call's arrival, so the index of ids finds a day."""


def _page(db: Database, query: CallsQuery, begins: int) -> CallPage:
    ends = begins + DAY
    named: dict[str, Value] = {
        "first": call_id_at(begins - 1),
        "last": call_id_at(ends + 1) if query.after is None else bytes.fromhex(query.after),
        "begins": begins,
        "ends": ends,
        "key": query.key_id,
        "model": query.model,
        "source": query.source,
        "rows": query.limit + 1,  # one more than the page shows whether there are more
    }
    found = [_call(*row) for row in db.select(_CALLS, named)]
    page, more = found[: query.limit], len(found) > query.limit
    return CallPage(query.day, page, page[-1].trace_id if more else None, _kept_from(db))


def _call(call_id: bytes, *rest: Any) -> CountedCall:
    """Return the call of a row, whose columns are in the order of the fields."""
    fields = dict(zip(CountedCall.__struct_fields__, (call_id.hex(), *rest), strict=True))
    fields["outcome"] = OUTCOMES[fields["outcome"]]
    return msgspec.convert(fields, CountedCall, strict=False)


def _kept_from(db: Database) -> str | None:
    for (day,) in db.select("SELECT value FROM usage_marks WHERE name = 'calls'"):
        return str(day)
    return None
