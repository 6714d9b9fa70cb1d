"""What a plugin shows of itself to people, as the hook `panels` returns it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

Cell = str | int | float | bool | None
"""A value in a panel. A number in a column whose name ends in `_at` is a time, in Unix seconds; in
one whose name ends in `_s` it is a duration in seconds."""


class PanelRows(msgspec.Struct, frozen=True):
    """Rows, each with its cells by column. `total`: how many there are, if some are left out."""

    rows: Sequence[Mapping[str, Cell]]
    total: int | None = None


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """A table that a plugin shows to those who have `scope`.

    `name` is one word, unique in the plugin. `await read(limit)` returns at most `limit` rows, the
    first ones of the panel's order, from memory or the database: it may raise a CallError or a
    StorageError. `live`: it is cheap to read, so it is read every few seconds while somebody looks;
    else it is read when somebody asks for it.
    """

    name: str
    title: str
    scope: str
    read: Callable[[int], Awaitable[PanelRows]]
    live: bool = True
