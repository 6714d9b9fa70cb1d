"""Reload the configuration while the gateway runs: first all that can fail, then all at once.

Calls in flight continue with the plugins that they began with. The lifespan of a plugin that is not
kept is left when the last of these calls has ended.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from gateway.app.generation import Generation
from gateway.app.plugin_routes import added_routes
from gateway.calls.control_request import ControlRequest
from gateway.calls.in_flight import InFlight
from gateway.cluster.peers import Topic
from gateway.config import Config
from gateway.errors import BadRequest, ConfigError, Draining, InternalError, StorageUnavailable
from gateway.plugins.host import Host
from gateway.plugins.lifespan import Lifespan, enter_lifespans, leave_lifespans
from gateway.plugins.loader import Plugins

T = TypeVar("T")

log = logging.getLogger("gateway")

RELOAD = Topic("app", "reload")

FIXED = ("host", "port", "processes", "storage")
"""Settings that are read only at the start."""

UNLISTED = ("workers", "plugins", "warnings")
"""Fields that the list of changed settings leaves out."""

PEERS_TIMEOUT = 60.0
"""Timeout in seconds for the other processes to reload, too."""


class Difference(msgspec.Struct):
    """Names of workers or plugins; `moved`: those present before and after changed their order."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    moved: bool = False


class Changed(msgspec.Struct):
    """The changes made by a reload; `settings` has the names of all other changed fields."""

    workers: Difference
    plugins: Difference
    settings: list[str]


class Reloaded(msgspec.Struct):
    """`needs_restart` names settings that differ in the file but only apply after a restart.

    `warnings` has a line for each former name that the configuration uses.
    """

    changed: Changed
    needs_restart: list[str]
    warnings: list[str]


class PeerResult(msgspec.Struct):
    """Result of another process's reload; `problem` is empty if it uses the new configuration."""

    index: int
    problem: str = ""


class Reloadable(Host, Protocol):
    """The gateway as a reload sees it: a Host with a generation that can be replaced."""

    @property
    def generation(self) -> Generation: ...
    @property
    def draining(self) -> bool: ...
    @property
    def in_flight(self) -> Sequence[InFlight[Any]]: ...
    def adopt(self, generation: Generation) -> None: ...


class Reloader:
    """Reloads one gateway, one reload at a time. `source` reads the configuration again."""

    def __init__(self, gateway: Reloadable, source: Callable[[], Config] | None) -> None:
        self._gateway = gateway
        self._source = source
        self._alone = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring: list[Lifespan] = []
        self._signalled = False
        gateway.peers.handle(RELOAD, self._handle_reload)

    @property
    def possible(self) -> bool:
        """Whether there is a configuration to read again."""
        return self._source is not None

    async def answer(self, _: ControlRequest) -> Reloaded:
        """Handle POST /admin/reload; a caller who leaves does not interrupt the reload."""
        try:
            return await asyncio.shield(self._begin(self._reload_all()))
        except ConfigError as error:
            said = "\n".join(error.problems)
            raise BadRequest(
                f"nothing was changed, because of this:\n{said}", code="invalid_configuration"
            ) from None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait for a reload that is running; no other begins before the block ends."""
        async with self._alone:
            yield

    def on_sighup(self) -> None:
        """Handle SIGHUP; signals that arrive before the reload begins count as one."""
        if not self._signalled:
            self._signalled = True
            self._begin(self._reload_on_signal())

    async def reload(self) -> Reloaded:
        """Read the configuration again and apply it.

        Raises ConfigError if it cannot be used, StorageError if a new plugin's tables cannot be
        created; nothing has changed then. Raises BadRequest if there is nothing to read, and
        Draining if the gateway is shutting down.
        """
        if self._source is None:
            raise BadRequest(
                "this gateway was not started from a configuration file; nothing can be reloaded",
                code="nothing_to_reload",
            )
        async with self._alone:
            self._signalled = False  # a signal from now on refers to a later state of the file
            try:
                done = await self._reload(self._source)
            except Exception as error:
                log.error("the reload failed, nothing was changed: %s", error)
                raise
        for warning in done.warnings:
            log.warning("%s", warning)
        log.info("reloaded: %s", msgspec.json.encode(done).decode())
        return done

    async def follow(self, config: Config) -> None:
        """Apply the configuration of another process. Raises what `reload` raises."""
        async with self._alone:
            if config != self._gateway.config:
                await self._reload(lambda: config)

    async def close(self) -> None:
        """Cancel running tasks, and leave the lifespans that were kept for calls in flight."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await leave_lifespans(self._retiring)

    async def _reload_all(self) -> Reloaded:
        """Reload here first, so that a bad configuration is used nowhere; then elsewhere."""
        done = await self.reload()
        peers = self._gateway.peers
        said = await peers.request(RELOAD, timeout=PEERS_TIMEOUT)
        heard = [msgspec.msgpack.decode(one, type=PeerResult) for one in said]
        silent = set(range(peers.count)) - {peers.index, *(one.index for one in heard)}
        problems = {one.index: one.problem for one in heard if one.problem}
        problems |= dict.fromkeys(silent, "it does not answer")
        if problems:
            told = "; ".join(f"process {index}: {problems[index]}" for index in sorted(problems))
            raise InternalError(
                f"not all processes go by the new configuration, reload again: {told}",
                code="partly_reloaded",
            )
        return done

    async def _handle_reload(self, _: bytes) -> bytes:
        problem = ""
        try:
            await self.reload()
        except Exception as error:  # noqa: BLE001  the process that requested the reload reports it
            problem = str(error) or type(error).__name__
        return msgspec.msgpack.encode(PeerResult(self._gateway.peers.index, problem))

    def _begin(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _reload_on_signal(self) -> None:
        try:
            await self.reload()
        except ConfigError:
            pass  # it has been logged
        except Exception:
            log.exception("the reload failed")

    async def _reload(self, source: Callable[[], Config]) -> Reloaded:
        gateway, before = self._gateway, self._gateway.generation
        if gateway.draining:
            raise Draining("the gateway is shutting down")
        # In threads: reading the file and importing plugins would delay calls noticeably.
        config, needs_restart = _changeable(await asyncio.to_thread(source), before.config)
        plugins = await asyncio.to_thread(Plugins, config.plugins, before.plugins)
        _check_authentication(before.plugins, plugins, config)
        async with AsyncExitStack() as undo:
            generation = await self._prepared(Generation.of(config, plugins, before), before, undo)
            _reconfigure(before.plugins, plugins, undo)
            # Once more: what `trace_ratio` returns may have changed.
            generation = replace(generation, chains=plugins.chains(before.chains))
            change_workers = gateway.workers.plan(config)
            undo.pop_all()
        gateway.adopt(generation)
        change_workers()
        self._retire(before, generation)
        return Reloaded(_changed(before, generation), needs_restart, generation.warnings)

    async def _prepared(
        self, generation: Generation, before: Generation, undo: AsyncExitStack
    ) -> Generation:
        """Return `generation` with routes and lifespans, those of new plugins and of kept ones.

        Creates the tables of new plugins and enters their lifespans; `undo` leaves these lifespans.
        """
        gateway, plugins = self._gateway, generation.plugins
        new = plugins.new_since(before.plugins)
        await self._migrate(plugins, new)
        routes = {**before.routes, **added_routes(plugins, gateway, new)}
        running = await enter_lifespans(plugins, gateway, new)
        undo.push_async_callback(leave_lifespans, list(running.values()))
        lifespans = {**before.lifespans, **running}
        return replace(
            generation, routes=_in_order(routes, plugins), lifespans=_in_order(lifespans, plugins)
        )

    async def _migrate(self, plugins: Plugins, new: Collection[str]) -> None:
        for name, found in plugins.migrations(only=new).items():
            try:
                await self._gateway.storage.migrate([found])
            except StorageUnavailable:
                raise  # the database file is at fault: the next reload may succeed
            except Exception:
                with plugins.naming_plugin(name):
                    raise

    def _retire(self, before: Generation, now: Generation) -> None:
        """Leave the lifespans of removed plugins once all that is in flight now has ended."""
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
            await in_flight.wait_for(some)
        try:
            await leave_lifespans(gone)
        except Exception:
            log.exception("a plugin that was taken out failed at its end")
        self._retiring = [one for one in self._retiring if one not in gone]


def _in_order(of: Mapping[str, T], plugins: Plugins) -> dict[str, T]:
    return {plugin.name: of[plugin.name] for plugin in plugins.loaded if plugin.name in of}


def _changeable(read: Config, before: Config) -> tuple[Config, list[str]]:
    """Return `read` with the fixed settings of `before`, and the names of those that differ."""
    kept = {name: getattr(before, name) for name in FIXED}
    return replace(read, **kept), [name for name in FIXED if getattr(read, name) != kept[name]]


def _check_authentication(before: Plugins, now: Plugins, config: Config) -> None:
    """Refuse to open a gateway to everybody by a file that may only be truncated.

    Raises ConfigError.
    """
    had, has = before.hooks["authenticate"], now.hooks["authenticate"]
    if had and not has and not config.allow_anonymous:
        raise ConfigError(
            f"plugins: no plugin authenticates callers any more ({had[0].plugin} did), so "
            "everybody could call; if that is meant, say allow_anonymous: true"
        )


def _reconfigure(before: Plugins, now: Plugins, undo: AsyncExitStack) -> None:
    """Give the kept plugins their new options; `undo` restores the old ones. Raises ConfigError."""
    old = {id(plugin.object): plugin.config for plugin in before.loaded}
    for plugin in now.loaded:
        config = old.get(id(plugin.object), plugin.config)
        if config is plugin.config:
            continue
        for name, run in now.hooks["reconfigure"]:
            if name == plugin.name:
                with now.naming_plugin(name):
                    run(plugin.config)
                undo.callback(run, config)


def _changed(before: Generation, now: Generation) -> Changed:
    return Changed(
        _difference(_workers(before), _workers(now)),
        _difference(_plugins(before), _plugins(now)),
        [
            name
            for name in Config.__struct_fields__
            if name not in UNLISTED and getattr(before.config, name) != getattr(now.config, name)
        ],
    )


def _workers(generation: Generation) -> Mapping[str, object]:
    return {worker.worker_id: worker for worker in generation.config.workers}


def _plugins(generation: Generation) -> Mapping[str, object]:
    return {one.name: (one.entry.name, one.entry.options) for one in generation.plugins.loaded}


def _difference(old: Mapping[str, object], new: Mapping[str, object]) -> Difference:
    stayed = [name for name in new if name in old]
    return Difference(
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        changed=[name for name in stayed if old[name] != new[name]],
        moved=stayed != [name for name in old if name in new],
    )
