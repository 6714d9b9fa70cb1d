"""A page that people look at: the fleet, the queue, usage, and every token of a trace.

`viewers.py` knows who looks, by the cookie of a login, which `logins.py` keeps; `doors.py` has the
page and what it asks for, `board.py` computes what all open pages share, and `ui.py` has the routes
that the replaced system has. `static/` is the page itself.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import Attempt, Call, Host, Migrations, Outcome, hookimpl
from gateway_plugins.dashboard.board import Board
from gateway_plugins.dashboard.doors import Doors
from gateway_plugins.dashboard.fleet import Fleet
from gateway_plugins.dashboard.load.calls import AllCalls
from gateway_plugins.dashboard.load.load import Load
from gateway_plugins.dashboard.logins import MIGRATIONS, secret_of
from gateway_plugins.dashboard.times import WATCH, Times, Watch
from gateway_plugins.dashboard.ui import Ui
from gateway_plugins.dashboard.viewers import Viewers


class Dashboard:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """Seconds between two looks at everything, and the seconds for which a login is good."""

        refresh: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
        login: Annotated[float, Meta(ge=60, le=604_800)] = 28_800.0

    def __init__(self, config: Config) -> None:
        self._config = config
        self._times = Times()
        self._board: Board | None = None
        self._load: Load | None = None
        self._viewers: Viewers | None = None

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        self._config = config

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        fleet, calls = Fleet(gateway, self._times), AllCalls(gateway, self._times)
        self._load = load = Load(gateway, calls)
        self._board = board = Board(gateway, fleet, load, lambda: self._config.refresh)
        self._viewers = viewers = Viewers(gateway, lambda: self._config.login)
        return [*Doors(gateway, viewers, board).routes(), *Ui(gateway, calls).routes()]

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        assert self._board is not None  # `routes` has made all of these
        assert self._load is not None
        assert self._viewers is not None
        self._viewers.secret = await secret_of(gateway.storage)
        async with self._load.running(), self._board.running():
            yield

    @hookimpl
    def observe(self, call: Call) -> Watch | None:
        if call.body.data is not None and not call.streams:
            return None
        watch = call.state[WATCH] = Watch()
        return watch

    @hookimpl
    def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self._times.attempted(call, attempt)

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        self._times.ended(call, outcome)
        if self._load is not None:
            self._load.ended(outcome)
