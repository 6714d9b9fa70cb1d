"""Engines in containers, which a Docker daemon runs.

The daemon's answers are waited for in threads, so that none stops the event loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from functools import partial

import msgspec

from gateway_plugins.runtime.drivers.containers.daemon import Daemon, DaemonError, Following, Found
from gateway_plugins.runtime.drivers.containers.request import OWNER, RUNTIME, arguments, name_of
from gateway_plugins.runtime.drivers.containers.watching import Watch
from gateway_plugins.runtime.drivers.driver import Exit, Launch, Log, StartFailed
from gateway_plugins.runtime.drivers.threads import in_thread

log = logging.getLogger("gateway.runtime")

PATIENCE = 30.0
"""Seconds that a daemon may be away, for a restart, before its containers count as ended."""


class DockerDriver:
    """Runs each engine in a container of its own, which bears the labels of `owner`.

    `owner` is the same after a restart of this gateway, and no other gateway's. `hosts` are the
    daemons of the models, on which `clear` looks for containers.
    """

    def __init__(
        self, owner: str, hosts: Iterable[str | None] = (None,), *, patience: float = PATIENCE
    ) -> None:
        self._owner = owner
        self._hosts = tuple(dict.fromkeys(hosts))
        self._patience = patience

    async def start(self, launch: Launch, log: Log) -> "Container":
        starting = in_thread(partial(self._start, launch))
        try:
            started = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.ensure_future(_undo(starting)))
            raise
        return Container(started, launch, log, self._patience)

    async def clear(self, runtime: str) -> None:
        labels = {OWNER: self._owner, RUNTIME: runtime}
        for host in self._hosts:
            try:
                await in_thread(partial(_remove_all, Daemon(host), labels))
            except DaemonError as error:
                # A start tells it as its failure, with the same words.
                log.warning("the containers of runtime %s are not cleared: %s", runtime, error)

    def _start(self, launch: Launch) -> "_Started":
        if launch.docker is None:
            raise StartFailed(f"model {launch.model} has no `docker`")
        daemon = Daemon(launch.docker.host)
        try:
            self._make_room(daemon, name_of(launch))
            container = daemon.create(arguments(launch, launch.docker, self._owner))
            return _started(daemon, container)
        except DaemonError as error:
            raise StartFailed(f"no container for model {launch.model}: {error}") from error

    def _make_room(self, daemon: Daemon, name: str) -> None:
        """Remove the container of this name. Raises StartFailed if it is somebody else's."""
        found = daemon.find(name)
        if found is None:
            return
        if found.labels.get(OWNER) != self._owner:
            raise StartFailed(_foreign(found, name))
        daemon.remove(found.id)


class _Started(msgspec.Struct, frozen=True):
    """A container that runs, and what it prints."""

    daemon: Daemon
    container: str
    following: Following


class Container:
    """An engine in a container. `identity` is the id of the container."""

    def __init__(self, started: _Started, launch: Launch, log: Log, patience: float) -> None:
        self.identity = started.container
        self.url = launch.url
        self._daemon = started.daemon
        self._model = launch.model
        self._watch = Watch(started.daemon, self.identity, started.following, log, patience)
        self._exit = in_thread(self._watch.run)
        self._stopping: asyncio.Future[None] | None = None

    async def ended(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def stop(self, grace: float) -> None:
        if self._stopping is None:
            self._stopping = in_thread(partial(self._stop, grace))
        await asyncio.shield(self._stopping)

    end = stop

    def _stop(self, grace: float) -> None:
        try:
            with contextlib.suppress(DaemonError):  # the removal kills what does not stop
                self._daemon.stop(self.identity, grace)
            self._daemon.remove(self.identity)
        except DaemonError as error:
            log.error(
                "the container of model %s may still run (%s): %s",
                self._model,
                self.identity[:12],
                error,
            )
        finally:
            self._watch.close()


def _started(daemon: Daemon, container: str) -> _Started:
    """Start a container, and remove it if it fails to."""
    with contextlib.ExitStack() as undoing:
        undoing.callback(daemon.remove, container)
        following = undoing.enter_context(contextlib.closing(daemon.attach(container)))
        daemon.start(container)
        undoing.pop_all()
    return _Started(daemon, container, following)


async def _undo(starting: "asyncio.Future[_Started]") -> None:
    """Remove the container of a start that nobody waits for any more."""
    try:
        started = await starting
        await in_thread(partial(started.daemon.remove, started.container))
        started.following.close()
    except (StartFailed, DaemonError) as error:
        log.warning("a start that was given up: %s", error)


def _remove_all(daemon: Daemon, labels: Mapping[str, str]) -> None:
    for container in daemon.labelled(labels):
        daemon.remove(container)


def _foreign(found: Found, name: str) -> str:
    return (
        f"the container {name} ({found.id[:12]}, {found.state.status}) is not this gateway's: "
        f"its label {OWNER} is {found.labels.get(OWNER, 'absent')}. Remove or rename the "
        "container, or give the runtime another name"
    )
