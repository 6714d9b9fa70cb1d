"""The file read again while the gateway runs: all that can fail first, then all at once.

Calls in flight go on with the plugins that they began with. A plugin that is not kept is left when
the last of them has ended.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

from gateway.config import Config
from gateway.control import ControlRequest, added_routes
from gateway.errors import BadRequest, ConfigError, Draining, InternalError
from gateway.plugins import Plugins
from gateway.running import InFlight, Lifespan, Parts, entered, leave
from gateway.storage.faults import blames_the_file

if TYPE_CHECKING:
    from gateway.app import Gateway

T = TypeVar("T")

log = logging.getLogger("gateway")

FIXED = ("host", "port", "processes", "db_path", "store", "storage", "persist_workers")
"""Settings that are taken at the start alone."""

LISTS = ("workers", "plugins")


OTHERS = 60.0
"""Seconds in which the other processes are to have reloaded, too."""


class Difference(msgspec.Struct):
    """Names of workers or plugins; `moved`: those that stayed are in another order."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    moved: bool = False


class Changed(msgspec.Struct):
    """What a reload has changed; `settings` are the names of all other fields."""

    workers: Difference
    plugins: Difference
    settings: list[str]


class Reloaded(msgspec.Struct):
    """`needs_restart` names settings that are other ones in the file, and are not in force."""

    changed: Changed
    needs_restart: list[str]


class Heard(msgspec.Struct):
    """How another process fared: `problem` is empty where it goes by the new configuration."""

    index: int
    problem: str = ""


class Reloader:
    """Reloads one gateway, one time after another. `source` gives the configuration anew."""

    def __init__(self, gateway: "Gateway", source: Callable[[], Config] | None) -> None:
        self._gateway = gateway
        self._source = source
        self._alone = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring: list[Lifespan] = []
        self._signalled = False
        gateway.siblings.answer("reload", self._hear)

    @property
    def possible(self) -> bool:
        """Whether there is something to read again."""
        return self._source is not None

    async def answer(self, _: ControlRequest) -> Reloaded:
        """POST /admin/reload; a caller who leaves does not stop it halfway."""
        try:
            return await asyncio.shield(self._begin(self._reload_all()))
        except ConfigError as error:
            said = "\n".join(error.problems)
            raise BadRequest(
                f"nothing was changed, because of this:\n{said}", code="invalid_configuration"
            ) from None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """While this lasts no reload begins."""
        async with self._alone:
            yield

    def hang_up(self) -> None:
        """SIGHUP. One that comes before the last one was obeyed is the same wish again."""
        if not self._signalled:
            self._signalled = True
            self._begin(self._obey())

    async def reload(self) -> Reloaded:
        """Read the configuration again and go by it.

        Raises ConfigError where it cannot be used, sqlite3.Error where a new plugin's tables cannot
        be made; then nothing was changed. Raises BadRequest where there is nothing to read, and
        Draining.
        """
        if self._source is None:
            raise BadRequest(
                "this gateway was not started from a configuration file; nothing can be reloaded",
                code="nothing_to_reload",
            )
        async with self._alone:
            self._signalled = False  # whoever signals from now on means what the file says then
            try:
                done = await self._reload(self._source)
            except Exception as error:
                log.error("the reload failed, nothing was changed: %s", error)
                raise
        log.info("reloaded: %s", msgspec.json.encode(done).decode())
        return done

    async def follow(self, config: Config) -> None:
        """Go by what another process goes by. Raises what `reload` raises."""
        async with self._alone:
            if config != self._gateway.config:
                await self._reload(lambda: config)

    async def close(self) -> None:
        """End what goes on, and leave the lifespans that calls in flight were waited for with."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await leave(self._retiring)

    async def _reload_all(self) -> Reloaded:
        """Here first, so that what cannot be used is used nowhere; then in the other processes."""
        done = await self.reload()
        siblings = self._gateway.siblings
        said = await siblings.ask("reload", wait=OTHERS)
        heard = [msgspec.msgpack.decode(one, type=Heard) for one in said]
        silent = set(range(siblings.count)) - {siblings.index, *(one.index for one in heard)}
        problems = {one.index: one.problem for one in heard if one.problem}
        problems |= dict.fromkeys(silent, "it does not answer")
        if problems:
            told = "; ".join(f"process {index}: {problems[index]}" for index in sorted(problems))
            raise InternalError(
                f"not all processes go by the new configuration, reload again: {told}",
                code="partly_reloaded",
            )
        return done

    async def _hear(self, _: bytes) -> bytes:
        problem = ""
        try:
            await self.reload()
        except Exception as error:  # noqa: BLE001  it is told by the one who asked
            problem = str(error) or type(error).__name__
        return msgspec.msgpack.encode(Heard(self._gateway.siblings.index, problem))

    def _begin(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _obey(self) -> None:
        try:
            await self.reload()
        except ConfigError:
            pass  # it is in the log
        except Exception:
            log.exception("the reload failed")

    async def _reload(self, source: Callable[[], Config]) -> Reloaded:
        gateway, before = self._gateway, self._gateway.parts
        if gateway.proxy.draining:
            raise Draining("the gateway is shutting down")
        # Reading the file and importing plugins take long enough for calls to notice.
        config, needs_restart = _changeable(await asyncio.to_thread(source), before.config)
        plugins = await asyncio.to_thread(Plugins, config.plugins, before.plugins)
        async with AsyncExitStack() as undo:
            parts = await self._prepared(Parts.of(config, plugins, before), before, undo)
            _reconfigure(before.plugins, plugins, undo)
            change_workers = gateway.workers.plan(config)
            undo.pop_all()
        gateway.adopt(parts)
        change_workers()
        self._retire(before, parts)
        return Reloaded(_changed(before, parts), needs_restart)

    async def _prepared(self, parts: Parts, before: Parts, undo: AsyncExitStack) -> Parts:
        """With the tables, routes and lifespans of new plugins, and those of the kept ones."""
        gateway, plugins = self._gateway, parts.plugins
        new = plugins.new_since(before.plugins)
        await self._migrate(plugins, new)
        routes = {**before.routes, **added_routes(plugins, gateway, new)}
        running = await entered(plugins, gateway, new)
        undo.push_async_callback(leave, list(running.values()))
        lifespans = {**before.lifespans, **running}
        return replace(
            parts, routes=_in_order(routes, plugins), lifespans=_in_order(lifespans, plugins)
        )

    async def _migrate(self, plugins: Plugins, new: Collection[str]) -> None:
        for name, found in plugins.run("migrations", only=new).items():
            try:
                await self._gateway.storage.migrate([found])
            except Exception as error:
                if blames_the_file(error):
                    raise  # it may do better the next time
                with plugins.blamed(name):
                    raise

    def _retire(self, before: Parts, now: Parts) -> None:
        """Leave the lifespans of plugins that are gone, after what is in flight at this moment."""
        kept = set(map(id, now.lifespans.values()))
        gone = [one for one in before.lifespans.values() if id(one) not in kept]
        if gone:
            self._retiring += gone
            begun = [(one, frozenset(one)) for one in self._gateway.in_flight]
            self._begin(self._leave_after(gone, begun))

    async def _leave_after(
        self, gone: Sequence[Lifespan], begun: Sequence[tuple[InFlight[Any], frozenset[Any]]]
    ) -> None:
        for in_flight, some in begun:
            await in_flight.over(some)
        try:
            await leave(gone)
        except Exception:
            log.exception("a plugin that was taken out failed at its end")
        self._retiring = [one for one in self._retiring if one not in gone]


def _in_order(of: Mapping[str, T], plugins: Plugins) -> dict[str, T]:
    return {plugin.name: of[plugin.name] for plugin in plugins.loaded if plugin.name in of}


def _changeable(read: Config, before: Config) -> tuple[Config, list[str]]:
    """What was read with the fixed settings of `before`, and the names of those that differ."""
    kept = {name: getattr(before, name) for name in FIXED}
    return replace(read, **kept), [name for name in FIXED if getattr(read, name) != kept[name]]


def _reconfigure(before: Plugins, now: Plugins, undo: AsyncExitStack) -> None:
    """Give the plugins that are kept their new options. Raises ConfigError."""
    old = {id(plugin.object): plugin.config for plugin in before.loaded}
    for plugin in now.loaded:
        config = old.get(id(plugin.object), plugin.config)
        if config is plugin.config:
            continue
        for name, run in now.hooks["reconfigure"]:
            if name == plugin.name:
                with now.blamed(name):
                    run(plugin.config)
                undo.callback(run, config)


def _changed(before: Parts, now: Parts) -> Changed:
    return Changed(
        _difference(_workers(before), _workers(now)),
        _difference(_plugins(before), _plugins(now)),
        [
            name
            for name in Config.__struct_fields__
            if name not in LISTS and getattr(before.config, name) != getattr(now.config, name)
        ],
    )


def _workers(parts: Parts) -> Mapping[str, object]:
    return {worker.worker_id: worker for worker in parts.config.workers}


def _plugins(parts: Parts) -> Mapping[str, object]:
    return {one.name: (one.entry.name, one.entry.options) for one in parts.plugins.loaded}


def _difference(old: Mapping[str, object], new: Mapping[str, object]) -> Difference:
    stayed = [name for name in new if name in old]
    return Difference(
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        changed=[name for name in stayed if old[name] != new[name]],
        moved=stayed != [name for name in old if name in new],
    )
