"""Reads the usage of each key as one row, whatever its models and workers."""

from collections.abc import Mapping

import msgspec

from gateway import Database
from gateway_plugins.usage.ledger.sums import LATEST

_SUMMED: Mapping[str, str] = {
    "request_total": "requests",
    "realtime_requests": "requests * (source = 'realtime')",
    "batch_requests": "requests * (source != 'realtime')",
    "success_total": "successes",
    "error_total": "errors",
    "aborted_total": "aborts",
    "refused_total": "errors * (worker = '')",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "total_tokens": "prompt_tokens + completion_tokens",
    "wasted_tokens": "wasted_tokens",
}
"""What is summed for each key, as SQL over a sum, or over a call that is not in the sums yet."""


_STATUS = ("success", "error", "aborted")
"""Words for the values of `last_outcome`."""


class KeyUse(msgspec.Struct, kw_only=True):
    """The usage of one key, in total, or on the day `bucket`, such as "20261121".

    Requests end as successes, errors or aborts; `refused_total` are those errors for which no
    worker was asked. Tokens are those of requests, but `wasted_tokens`, which are those of attempts
    whose work ran again. What begins with `last_` is of the latest request by its arrival,
    `last_ts` in Unix seconds; None if it is not known.
    """

    key_id: str
    bucket: str | None
    request_total: int
    realtime_requests: int
    batch_requests: int
    success_total: int
    error_total: int
    aborted_total: int
    refused_total: int
    prompt_tokens: float
    completion_tokens: float
    total_tokens: float
    wasted_tokens: float
    last_model: str | None = None
    last_source: str | None = None
    last_scope: str | None = None
    last_status: str | None = None
    last_ts: float | None = None


class KeyPlace(msgspec.Struct, frozen=True, tag="key"):
    """The last key of a page. `bucket` is the day that is listed, None for the totals."""

    bucket: int | None
    key: str = ""


_LAST = f"{LATEST}, model, source"
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in _SUMMED)
_STORED_SUMS = ", ".join(f"sum({text}) AS {name}" for name, text in _SUMMED.items())
_COUNTED = ", ".join(f"{text} AS {name}" for name, text in _SUMMED.items())


def page_of_keys(db: Database, after: KeyPlace, limit: int) -> list[KeyUse]:
    """Return the usage of at most `limit` keys after `after`, sorted by the key's id."""
    where = "key > :key" if after.bucket is None else "day = :bucket AND key > :key"
    # Limit the stored rows to the size of the page: the page cannot have more of them.
    stored = (
        f"SELECT key, {_STORED_SUMS}, {_LAST} FROM usage_sums WHERE {where}"
        " GROUP BY key ORDER BY key LIMIT :rows"
    )
    others = (
        f"SELECT key, {_COUNTED}, last_time, last_outcome, model, source"
        f" FROM usage_not_summed WHERE {where}"
    )
    query = (
        f"SELECT key, {_SUMS}, {_LAST} FROM (SELECT * FROM ({stored}) UNION ALL {others})"
        " GROUP BY key ORDER BY key LIMIT :rows"
    )
    rows = db.select(query, {**msgspec.structs.asdict(after), "rows": limit})
    return [_use(after.bucket, *row) for row in rows]


def _use(bucket: int | None, key: str, *row: str | float) -> KeyUse:
    counts, (time, outcome, model, source) = row[: len(_SUMMED)], row[len(_SUMMED) :]
    summed = dict(zip(_SUMMED, counts, strict=True))
    day = None if bucket is None else str(bucket)
    use = msgspec.convert({"key_id": key, "bucket": day, **summed}, KeyUse)
    if time:
        use.last_ts, use.last_status = float(time), _STATUS[int(outcome)]
        use.last_model, use.last_scope = str(model) or None, str(source)
        use.last_source = "realtime" if source == "realtime" else "batch"
    return use
