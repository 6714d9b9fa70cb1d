"""The panels that plugins offer: each is read alone, so that one that fails leaves the others."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Self

import msgspec

from gateway import CallError, Cell, Host, Outcome, Panel, PanelAction, PanelRows, StorageError

log = logging.getLogger("gateway.dashboard")

READING = 2.0
"""Seconds that a live panel has to be read."""

ASKED = 30.0
"""Seconds that a panel has that somebody asks for."""


class Offered(msgspec.Struct, frozen=True):
    """A panel and the plugin that offers it."""

    plugin: str
    panel: Panel

    @property
    def name(self) -> str:
        return f"{self.plugin}.{self.panel.name}"


class ShownPanel(msgspec.Struct, frozen=True, kw_only=True):
    """What the page gets of a panel. `columns` are in the order of the first row that has them.

    `error` says why there are no rows, None if they could be read.
    """

    title: str
    plugin: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    total: int | None = None
    actions: Sequence[PanelAction] = ()
    error: str | None = None

    @classmethod
    def of(cls, one: Offered, found: PanelRows) -> Self:
        """Return what the page gets of a panel with these rows."""
        columns = list(dict.fromkeys(name for row in found.rows for name in row))
        rows = [[row.get(name) for name in columns] for row in found.rows]
        return cls(
            title=one.panel.title,
            plugin=one.plugin,
            columns=columns,
            rows=rows,
            total=found.total,
            actions=one.panel.actions,
        )


def offered(gateway: Host) -> list[Offered]:
    """Return the panels of all plugins; one whose hook fails has none, which is counted."""
    found: list[Offered] = []
    for hook in gateway.hooks("panels"):
        try:
            found += [Offered(hook.plugin, panel) for panel in hook.run(gateway)]
        except Exception as error:  # noqa: BLE001  one plugin's failure must not affect others
            gateway.failures.note(hook.plugin, "panels", Outcome(), error)
    return found


def find(gateway: Host, name: str) -> Offered | None:
    """Return the first panel of this name, whichever plugin has it; None if there is none."""
    return next((one for one in offered(gateway) if one.panel.name == name), None)


async def read(gateway: Host, one: Offered, limit: int) -> PanelRows:
    """Return the rows of a panel, at most `limit`. Raises CallError, which says why there are none.

    A failure of the plugin's own is counted, and shown without its text, which is for the log.
    """
    seconds = READING if one.panel.live else ASKED
    try:
        async with asyncio.timeout(seconds):
            found = await one.panel.read(limit)
        return PanelRows(found.rows[:limit], found.total)
    except CallError:
        raise
    except TimeoutError:
        raise PanelFailed(f"{one.plugin} took longer than {seconds:g} s") from None
    except StorageError as error:
        log.warning("the panel %s: %s", one.name, error)
        raise PanelFailed("the database cannot be read now; /health says why") from None
    except Exception as error:  # a plugin's own failure
        gateway.failures.note(one.plugin, "panels", Outcome(), error)
        raise PanelFailed(f"{one.plugin} failed; the log says why") from error


class PanelFailed(CallError):
    """A panel could not be read; the others are as they were."""

    status = 503
    code = "panel_failed"
    type = "server_error"


async def show(gateway: Host, one: Offered, limit: int) -> ShownPanel:
    """Return a panel as the page shows it, with the reason if it cannot be read."""
    try:
        return ShownPanel.of(one, await read(gateway, one, limit))
    except CallError as error:
        return ShownPanel(title=one.panel.title, plugin=one.plugin, error=str(error))
