"""The tables of usage, and the migrations that create them.

`usage_calls` is the ledger, one row per call. Its rows are added to `usage_sums` a little later,
many at a time, because adding to a sum costs more than a row. Sums of days that are no longer kept
apart are stored under day 0. `usage_marks` has the `number` up to which rows are summed, and the
first days from which calls and days are complete. The views `usage_days` and `usage_totals` combine
the sums with the rows that are not summed yet, so they are exact at every moment. Days are UTC, as
numbers like 20261121; times are Unix seconds.
"""

from collections.abc import Sequence

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
)
"""The summed columns; `counted`: calls whose tokens the gateway counted itself; `unread`: calls
with a usage that could not be read in full."""

_FIRST_COUNTS = COUNTS[:-1]
"""Those of the first release."""

DAY_OF_A_CALL = (
    "CAST(strftime('%Y%m%d', CAST(time / 86400 AS INTEGER) * 86400, 'unixepoch') AS INTEGER)"
)
"""SQL expression for the day of a row of the ledger."""

_WAY = ", ".join(WAY)
_WAY_COLUMNS = ", ".join(f"{name} TEXT NOT NULL" for name in WAY)
_COUNT_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL" for name in _FIRST_COUNTS)


def _views(columns: Sequence[str]) -> str:
    counts, sums = ", ".join(columns), ", ".join(f"sum({name}) AS {name}" for name in columns)
    return f"""
CREATE VIEW usage_not_summed AS
    SELECT number, {DAY_OF_A_CALL} AS day, {_WAY}, 1 AS requests,
        outcome = 0 AS successes, outcome = 1 AS errors, outcome = 2 AS aborts,
        {", ".join(columns[4:])}
    FROM usage_calls WHERE number > (SELECT value FROM usage_marks WHERE name = 'summed');
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
{_views(_FIRST_COUNTS)}"""


_ADD_UNREAD = f"""
DROP VIEW usage_totals;
DROP VIEW usage_days;
DROP VIEW usage_not_summed;
ALTER TABLE usage_calls ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_sums ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;
{_views(COUNTS)}
"""

MIGRATIONS = Migrations(
    "usage", (Migration("create_tables", _TABLES), Migration("add_unread", _ADD_UNREAD))
)
