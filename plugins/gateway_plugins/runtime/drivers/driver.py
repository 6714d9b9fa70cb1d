"""What a driver is: it starts engines, tells when they have ended, and leaves nothing of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from gateway_plugins.runtime.options import Docker


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One start of an engine.

    `generation` is a number that no other start has. `command` is complete. `environment` is added
    to that of the driver, secrets included. `devices` are GPUs, none: all. `resident`: the engine
    will sleep rather than end, so that others of its runtime live beside it. `snapshot`: the folder
    of the hub's cache with its files, None if none is known.
    """

    generation: int
    runtime: str
    model: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    host: str
    port: int
    devices: tuple[str, ...] = ()
    docker: Docker | None = None
    resident: bool = False
    snapshot: Path | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Exit(msgspec.Struct, frozen=True):
    """How an engine ended: `code` as a shell shows it (137 for SIGKILL), None if unknown.

    `oom_killed`: the kernel ended it for want of memory, as far as the driver can tell.
    """

    code: int | None
    oom_killed: bool = False


class StartFailed(Exception):
    """The engine could not be started at all; the text says why."""


class Engine(Protocol):
    """An engine that was started. `identity` tells it from all others: a process, a container."""

    @property
    def identity(self) -> str: ...
    @property
    def url(self) -> str: ...

    async def ended(self) -> Exit:
        """Wait until the engine has ended, by itself or by `stop`; may be awaited several times."""

    async def stop(self, grace: float) -> None:
        """Make room for another engine: this one ends as by `end`, or sleeps if it can.

        May be called at any time, and twice.
        """

    async def end(self, grace: float) -> None:
        """End the engine and all that it started: asked first, and `grace` seconds later killed.

        Returns when nothing of it is left. May be called at any time, and twice. An engine that has
        failed is ended, since one that is only stopped might be woken as it is.
        """


Log = Callable[[bytes], None]
"""Gets each piece of what the engine prints, in the event loop, lines not kept together."""


class Driver(Protocol):
    async def start(self, launch: Launch, log: Log) -> Engine:
        """Start an engine. Raises StartFailed.

        If the task is cancelled, nothing of the engine is left.
        """

    async def clear(self, runtime: str) -> None:
        """End what a gateway that was killed has left of this runtime. Called before any start."""
