"""What a plugin shows of itself to people, as the hook `panels` returns it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

Cell = str | int | float | bool | None
"""A value in a panel. A number in a column whose name ends in `_at` is a time, in Unix seconds; in
one whose name ends in `_s` it is a duration in seconds; in `_bytes` a size; in `_share` a part of a
whole, from 0 to 1, which is shown as a bar."""


class PanelRows(msgspec.Struct, frozen=True):
    """Rows, each with its cells by column. `total`: how many there are, if some are left out."""

    rows: Sequence[Mapping[str, Cell]]
    total: int | None = None


class PanelAction(msgspec.Struct, frozen=True, kw_only=True):
    """What people may do in a panel: a request to a route of the gateway, after a confirmation.

    `label` is the word on the button, `effect` says what will happen. `path` may have columns of
    the row in braces, as in "/jobs/{id}/cancel"; `scope` is what the route asks for. The rows in
    which `column` has one of `values` offer the action; "": it is about the whole panel.
    """

    label: str
    effect: str
    path: str
    method: str = "POST"
    scope: str = "admin"
    column: str = ""
    values: Sequence[str] = ()


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """A table that a plugin shows to those who have `scope`.

    `name` is one word, unique in the plugin. `await read(limit)` returns at most `limit` rows, the
    first ones of the panel's order, from memory or the database: it may raise a CallError or a
    StorageError. `live`: it is cheap to read, so it is read every few seconds while somebody looks;
    else it is read when somebody asks for it. `actions` are for those who have their scopes.
    """

    name: str
    title: str
    scope: str
    read: Callable[[int], Awaitable[PanelRows]]
    live: bool = True
    actions: Sequence[PanelAction] = ()
