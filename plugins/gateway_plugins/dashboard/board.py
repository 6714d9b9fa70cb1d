"""What all open pages share: computed once for all of them, and only while a page is open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic

import msgspec

from gateway import Host
from gateway_plugins.dashboard.fleet import Fleet
from gateway_plugins.dashboard.load.load import Load
from gateway_plugins.dashboard.panels import PanelFailed, ShownPanel, offered, show

MAX_ROWS = 100
"""Rows of a panel that the page shows."""


class Part(msgspec.Struct, frozen=True):
    """A part of the page for those who have `scope`. `body` is the JSON of what it shows."""

    name: str
    scope: str
    body: bytes


class Board:
    """Looks at everything every `refresh()` seconds for as long as somebody waits for it."""

    def __init__(
        self, gateway: Host, fleet: Fleet, load: Load, refresh: Callable[[], float]
    ) -> None:
        self._gateway = gateway
        self._fleet = fleet
        self._load = load
        self.refresh = refresh
        self._parts: Sequence[Part] = ()
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self.looks = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer other processes; nothing is looked at any more on exit."""
        self._fleet.join()
        try:
            yield
        finally:
            if self._looking is not None:
                self._looking.cancel()
                await asyncio.wait([self._looking])

    async def parts(self) -> Sequence[Part]:
        """Return what was seen last, or look if that is older than `refresh()` seconds.

        All who ask while somebody looks wait for the same look.
        """
        if self._looking is None and monotonic() - self._looked < self.refresh():
            return self._parts
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)
        return self._parts

    def seconds_left(self) -> float:
        """Return after how many seconds what was seen last is too old."""
        return max(self._looked + self.refresh() - monotonic(), 0.0)

    async def _look(self) -> None:
        try:
            found = [
                self._part("fleet", "monitor", self._fleet.show()),
                self._part("load", "monitor", self._load.show()),
            ]
            found += [
                self._part(one.name, one.panel.scope, show(self._gateway, one, MAX_ROWS))
                for one in offered(self._gateway)
                if one.panel.live
            ]
            self._parts = await asyncio.gather(*found)
            self._looked = monotonic()
            self.looks += 1
        finally:
            self._looking = None

    async def _part(self, name: str, scope: str, shown: Awaitable[msgspec.Struct]) -> Part:
        try:
            body = msgspec.json.encode(await shown)
        except (TypeError, ValueError, msgspec.MsgspecError):  # cells that no JSON can hold
            broken = PanelFailed("it has values that cannot be shown")
            body = msgspec.json.encode(ShownPanel(title=name, plugin=name, error=str(broken)))
        return Part(name, scope, body)
