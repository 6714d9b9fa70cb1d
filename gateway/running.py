"""The parts of a running gateway, and the items that have begun and not ended."""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec
from starlette.routing import BaseRoute

from gateway.chains import Chains
from gateway.config import Config, is_loopback
from gateway.errors import ConfigError
from gateway.plugins import Plugins
from gateway.storage import MEMORY

if TYPE_CHECKING:
    from gateway.app import Gateway

T = TypeVar("T")

log = logging.getLogger("gateway")


class Lifespan:
    """The lifespan of one plugin, in a task of its own.

    It may be entered by a reload and left by the shutdown, but its resources (a task group, a
    timeout) must be left in the task that entered them.
    """

    def __init__(self, plugin: str, manager: AbstractAsyncContextManager[None]) -> None:
        self._plugin = plugin
        self._manager = manager
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        """Enter it. Raises what entering raises, RuntimeError if it ended before that."""
        task = self._task = asyncio.create_task(self._run(), name=f"lifespan of {self._plugin}")
        try:
            await asyncio.wait([task, self._entered], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        if not self._entered.done():
            _tell(task)
            raise RuntimeError("its lifespan ended before it was entered")
        task.add_done_callback(self._note_end)

    async def leave(self) -> None:
        """Leave it. Raises what leaving raises."""
        self._leaving.set()
        if self._task is not None:
            await asyncio.wait([self._task])  # cancelling this wait does not cancel the task
            _tell(self._task)

    async def _run(self) -> None:
        async with self._manager:
            self._entered.set_result(None)
            await self._leaving.wait()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if self._leaving.is_set():
            return
        error = None if task.cancelled() else task.exception()
        log.error("what plugin %s runs beside the gateway has ended", self._plugin, exc_info=error)


def _tell(task: asyncio.Task[None]) -> None:
    """Raise what the task raised."""
    if not task.cancelled():
        task.result()


class Parts(msgspec.Struct, frozen=True, eq=False):
    """The parts of a gateway that a reload replaces; `routes` and `lifespans` are by plugin."""

    config: Config
    plugins: Plugins
    chains: Chains
    routes: Mapping[str, Sequence[BaseRoute]] = {}
    lifespans: Mapping[str, Lifespan] = {}

    @classmethod
    def of(cls, config: Config, plugins: Plugins, before: "Parts | None" = None) -> Self:
        """Return parts without routes and lifespans; hook failures are counted on from `before`.

        Raises ConfigError if other machines could use the workers without authentication and
        `allow_anonymous` is not set, and if something cannot work in several processes.
        """
        if config.processes > 1:
            _check_shared(config, plugins)
        chains = plugins.chains(before.chains.failures if before is not None else None)
        if not (chains.authenticate or config.allow_anonymous or is_loopback(config.host)):
            raise ConfigError(
                f"host {config.host}: other machines can reach it, and no plugin authenticates "
                "callers, so anybody could use the workers; enable an authenticating plugin, or "
                "listen on 127.0.0.1, or set `allow_anonymous: true`"
            )
        return cls(config, plugins, chains)


def _check_shared(config: Config, plugins: Plugins) -> None:
    """Raise ConfigError with everything that works in one process only."""
    several = f"processes: {config.processes}"
    problems = [
        f"{plugin.place}: plugin {plugin.name} works in one process alone ({plugin.one_process}), "
        f"and there are {several}; leave `processes` at 1, or take the plugin out"
        for plugin in plugins.loaded
        if plugin.one_process
    ]
    if config.store == "memory" or config.db_path == MEMORY:
        problems.append(
            f"{several}: the database is in memory, where each process would have one of its own; "
            "name a file in `db_path`, or leave `processes` at 1"
        )
    if problems:
        raise ConfigError(*problems)


async def entered(
    plugins: Plugins, gateway: "Gateway", only: Collection[str]
) -> dict[str, Lifespan]:
    """Enter the lifespans of the plugins in `only`, in order, and return them by plugin.

    Raises ConfigError if one of them fails; those before it are left first.
    """
    running: dict[str, Lifespan] = {}
    try:
        for hook in plugins.hooks["lifespan"]:
            if hook.plugin in only:
                with plugins.blamed(hook.plugin):
                    lifespan = Lifespan(hook.plugin, hook.run(gateway))
                    await lifespan.enter()
                running[hook.plugin] = lifespan
    except BaseException:
        await leave(running.values())
        raise
    return running


async def leave(lifespans: Iterable[Lifespan]) -> None:
    """Leave all of them, in reverse order. Raises what one of them raises."""
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            stack.push_async_callback(lifespan.leave)


class InFlight(set[T]):
    """Items that have begun and not ended: `add` an item when it begins, `end` it later."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited: list[tuple[set[T], asyncio.Event]] = []

    def end(self, one: T) -> None:
        self.discard(one)
        for left, over in self._awaited:
            left.discard(one)
            if not left:
                over.set()

    async def over(self, some: Iterable[T]) -> None:
        """Wait until all of `some` have ended; others may begin meanwhile."""
        left = self.intersection(some)
        if not left:
            return
        awaited = (left, asyncio.Event())
        self._awaited.append(awaited)
        try:
            await awaited[1].wait()
        finally:
            self._awaited.remove(awaited)
