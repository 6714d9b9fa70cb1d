"""The tables of usage, and the migrations that create them.

`usage_calls` is the ledger, one row per call. Its rows are added to `usage_sums` a little later,
many at a time, because adding to a sum costs more than a row. Sums of days that are no longer kept
apart are stored under day 0. `usage_marks` has the `number` up to which rows are summed, and the
first days from which calls and days are complete. A call whose work runs again (`repeated`) is no
request: only `repeated` and `wasted_tokens` have it. `last_time` and `last_outcome` of a sum are
those of its latest request, by arrival; 0 if it has none. `usage_runs` has the run of each call
that has one, as long as its row is kept. The views `usage_days` and `usage_totals`
combine the sums with the rows that are not summed yet, so they are exact at every moment. Days are
UTC, as numbers like 20261121; times are Unix seconds.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gateway import Migration, Migrations

WAY = ("key", "model", "worker", "source")
"""The columns by which sums are grouped, besides the day."""

COUNTS = (
    "requests",
    "successes",
    "errors",
    "aborts",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "counted",
    "unread",
    "repeated",
    "wasted_tokens",
)
"""The summed columns; `counted`: calls whose tokens the gateway counted itself; `unread`: calls
with a usage that could not be read in full; `repeated`: calls whose work ran again in another one,
with their `wasted_tokens`. All other columns are of requests, which those calls are not."""

LAST = ("last_time", "last_outcome")
"""Columns of a sum for its latest request."""

_COUNTS_2 = COUNTS[:10]
"""Those of the second step."""

_COUNTS_1 = COUNTS[:9]
"""Those of the first step."""

COUNT_OF_A_CALL: Mapping[str, str] = MappingProxyType(
    {
        "requests": "1 - repeated",
        "successes": "outcome = 0 AND NOT repeated",
        "errors": "outcome = 1 AND NOT repeated",
        "aborts": "outcome = 2 AND NOT repeated",
        **{name: f"{name} * (1 - repeated)" for name in COUNTS[4:10]},
        "repeated": "repeated",
        "wasted_tokens": "(prompt_tokens + completion_tokens) * repeated",
    }
)
"""SQL expressions for what a row of the ledger adds to each of the COUNTS."""

DAY_OF_A_CALL = (
    "CAST(strftime('%Y%m%d', CAST(time / 86400 AS INTEGER) * 86400, 'unixepoch') AS INTEGER)"
)
"""SQL expression for the day of a row of the ledger."""

_WAY = ", ".join(WAY)
_WAY_COLUMNS = ", ".join(f"{name} TEXT NOT NULL" for name in WAY)
_COUNT_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL" for name in _COUNTS_1)
_NOT_SUMMED = "usage_calls WHERE number > (SELECT value FROM usage_marks WHERE name = 'summed')"


def _not_summed(columns: Sequence[str]) -> str:
    """Return the view of the first two steps."""
    return f"""
CREATE VIEW usage_not_summed AS
    SELECT number, {DAY_OF_A_CALL} AS day, {_WAY}, 1 AS requests,
        outcome = 0 AS successes, outcome = 1 AS errors, outcome = 2 AS aborts,
        {", ".join(columns[4:])}
    FROM {_NOT_SUMMED};"""


def _views(columns: Sequence[str]) -> str:
    counts, sums = ", ".join(columns), ", ".join(f"sum({name}) AS {name}" for name in columns)
    return f"""
CREATE VIEW usage_days AS
    SELECT day, {_WAY}, {sums} FROM (
        SELECT day, {_WAY}, {counts} FROM usage_sums WHERE day > 0
        UNION ALL SELECT day, {_WAY}, {counts} FROM usage_not_summed
    ) GROUP BY day, {_WAY};
CREATE VIEW usage_totals AS
    SELECT {_WAY}, {sums} FROM (
        SELECT {_WAY}, {counts} FROM usage_sums
        UNION ALL SELECT {_WAY}, {counts} FROM usage_not_summed
    ) GROUP BY {_WAY};
"""


_TABLES = f"""
CREATE TABLE usage_calls (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    time REAL NOT NULL,
    {_WAY_COLUMNS},
    outcome INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    counted INTEGER NOT NULL
);
CREATE TABLE usage_sums (
    day INTEGER NOT NULL, {_WAY_COLUMNS}, {_COUNT_COLUMNS}, PRIMARY KEY (day, {_WAY})
) WITHOUT ROWID;
CREATE INDEX usage_sums_by_way ON usage_sums ({_WAY}, day);
CREATE TABLE usage_marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO usage_marks (name, value) VALUES ('summed', 0);
{_not_summed(_COUNTS_1)}
{_views(_COUNTS_1)}"""

_DROP_VIEWS = """
DROP VIEW usage_totals;
DROP VIEW usage_days;
DROP VIEW usage_not_summed;
"""

_ADD_UNREAD = f"""
{_DROP_VIEWS}
ALTER TABLE usage_calls ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_sums ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;
{_not_summed(_COUNTS_2)}
{_views(_COUNTS_2)}
"""

_COUNTED = ",\n        ".join(f"{text} AS {name}" for name, text in COUNT_OF_A_CALL.items())
_ADD_REPEATED = f"""
{_DROP_VIEWS}
ALTER TABLE usage_calls ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_sums ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_sums ADD COLUMN wasted_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_sums ADD COLUMN last_time REAL NOT NULL DEFAULT 0;
ALTER TABLE usage_sums ADD COLUMN last_outcome INTEGER NOT NULL DEFAULT 0;
CREATE VIEW usage_not_summed AS
    SELECT number, {DAY_OF_A_CALL} AS day, {_WAY},
        {_COUNTED},
        time * (1 - repeated) AS last_time, outcome AS last_outcome
    FROM {_NOT_SUMMED};
{_views(COUNTS)}
"""

_ADD_SPANS = """
ALTER TABLE usage_calls ADD COLUMN distributed_trace_id BLOB;
ALTER TABLE usage_calls ADD COLUMN span_id BLOB;
"""

_ADD_RUNS = """
CREATE TABLE usage_runs (id BLOB PRIMARY KEY, run TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX usage_runs_by_run ON usage_runs (run)
"""

MIGRATIONS = Migrations(
    "usage",
    (
        Migration("create_tables", _TABLES),
        Migration("add_unread", _ADD_UNREAD),
        Migration("add_repeated", _ADD_REPEATED),
        Migration("add_spans", _ADD_SPANS),
        Migration("add_runs", _ADD_RUNS),
    ),
)
