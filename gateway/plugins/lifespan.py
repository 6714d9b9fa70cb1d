"""The lifespans of plugins, each entered and left in a task of its own."""

import asyncio
import logging
from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

from gateway.plugins.host import Host
from gateway.plugins.loader import Plugins

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
            _raise_error(task)
            raise RuntimeError("its lifespan ended before it was entered")
        task.add_done_callback(self._note_end)

    async def leave(self) -> None:
        """Leave it. Raises what leaving raises."""
        self._leaving.set()
        if self._task is not None:
            await asyncio.wait([self._task])  # cancelling this wait does not cancel the task
            _raise_error(self._task)

    async def _run(self) -> None:
        async with self._manager:
            self._entered.set_result(None)
            await self._leaving.wait()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if self._leaving.is_set():
            return
        error = None if task.cancelled() else task.exception()
        log.error("what plugin %s runs beside the gateway has ended", self._plugin, exc_info=error)


def _raise_error(task: asyncio.Task[None]) -> None:
    """Raise what the task raised."""
    if not task.cancelled():
        task.result()


async def enter_lifespans(
    plugins: Plugins, gateway: Host, only: Collection[str]
) -> dict[str, Lifespan]:
    """Enter the lifespans of the plugins in `only`, in order, and return them by plugin.

    Raises ConfigError if one of them fails; those before it are left first.
    """
    running: dict[str, Lifespan] = {}
    try:
        for hook in plugins.hooks["lifespan"]:
            if hook.plugin in only:
                with plugins.naming_plugin(hook.plugin):
                    lifespan = Lifespan(hook.plugin, hook.run(gateway))
                    await lifespan.enter()
                running[hook.plugin] = lifespan
    except BaseException:
        await leave_lifespans(running.values())
        raise
    return running


async def leave_lifespans(lifespans: Iterable[Lifespan]) -> None:
    """Leave all of them, in reverse order. Raises what one of them raises."""
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            stack.push_async_callback(lifespan.leave)
