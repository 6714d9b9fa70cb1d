"""What the gateway and its plugins see of a database: statements, rows and tables, but no driver.

The statements are SQL that SQLite and PostgreSQL share: named parameters `:name`; INSERT with ON
CONFLICT (columns) DO NOTHING or DO UPDATE; row values such as `(a, b) > (:a, :b)`; LIMIT and
OFFSET; UNION, EXCEPT and CTEs. A few statements of today run on SQLite only, and a second engine
has to write them in its own words: `WITHOUT ROWID`, `INTEGER PRIMARY KEY` that numbers rows by
itself, the types BLOB and REAL, ON CONFLICT without columns, `strftime` and sums of conditions
(usage), `column1` of a VALUES list, `max` of two values and `+column` (trace_capture).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

Value = None | int | float | str | bytes
"""A value of a column or a parameter. A bool is stored as 0 or 1."""

Row = tuple[Any, ...]
"""The Values of a row."""

NO_PARAMS: Mapping[str, Value] = {}


class Database(Protocol):
    """A database within one transaction of its owner: it is used in the call that passed it only.

    The storage begins and commits transactions. All methods block; a StorageError tells a failed
    statement, as its subclass StorageUnavailable if the file is at fault, and as ConstraintViolated
    if the rows are.
    """

    def select(self, sql: str, params: Mapping[str, Value] = NO_PARAMS) -> Iterator[Row]:
        """Run a query and yield its rows, which are read as they are needed.

        Raises StorageError, also while rows are read.
        """

    def execute(self, sql: str, params: Mapping[str, Value] = NO_PARAMS) -> int:
        """Run a statement that changes rows; return the number of rows changed.

        Raises StorageError.
        """

    def insert(self, into: str, rows: Sequence[Sequence[object]], after: str = "") -> int:
        """Run `into`, VALUES of the rows, `after`; return the number of rows changed.

        `into` is the statement up to its values, such as "INSERT INTO notes (id, text)"; `after`
        may be an ON CONFLICT clause. All rows have the same length. Takes few statements for many
        rows. Raises StorageError.
        """

    def version(self) -> int:
        """Return a number that changes if another connection commits.

        Comparable with earlier numbers of the same Database object only.
        """

    def used_bytes(self) -> int:
        """Return the size of the database without its free space."""


class OpenDatabase(Database, Protocol):
    """A read-only database that its user keeps open, and closes."""

    def check(self) -> None:
        """Raise StorageUnavailable if the file was replaced since it was opened."""

    def close(self) -> None: ...


class Migration(msgspec.Struct, frozen=True):
    """One step: SQL statements with semicolons between them, and no semicolon within one."""

    name: str
    sql: str

    @property
    def statements(self) -> Sequence[str]:
        return [one for one in map(str.strip, self.sql.split(";")) if one]


class Migrations(msgspec.Struct, frozen=True):
    """The steps that create the tables of `name`, in order.

    Each step runs once per file. A released step is never changed, only followed by another.
    """

    name: str
    steps: Sequence[Migration]


def insert_rows(
    db: Database, before: str, rows: Sequence[Sequence[object]], after: str = ""
) -> int:
    """Run `before`, VALUES of the rows, `after`; return the number of rows changed.

    The same as `db.insert`.
    """
    return db.insert(before, rows, after)
