"""The driver that starts engines as processes of this machine; it needs no privilege.

Each engine has a session of its own, and a mark in its environment: `GATEWAY_RUNTIME=` with the
gateway's owner (as a digest), the runtime and the generation. By the mark all that an engine has
forked is found, even after the engine's own death or that of this gateway. A process that neither
has the mark, nor is in the engine's process group, nor is a child of such a one cannot be found.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Mapping

from gateway_plugins.runtime.drivers.driver import Exit, Launch, Log, StartFailed
from gateway_plugins.runtime.drivers.machine.descriptors import keep_to_oneself
from gateway_plugins.runtime.drivers.machine.environment import scrubbed
from gateway_plugins.runtime.drivers.machine.family import Family, log
from gateway_plugins.runtime.drivers.machine.gpu_memory import LONGEST, GpuMemory
from gateway_plugins.runtime.drivers.machine.oom import OomWatch
from gateway_plugins.runtime.drivers.machine.output import Output
from gateway_plugins.runtime.drivers.machine.processes import supported

MARK = "GATEWAY_RUNTIME"

CLEAR_GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL for what a killed gateway has left."""

OWN_END = 1.0
"""Seconds for the exit status of an engine that has ended."""

Process = asyncio.subprocess.Process


class ProcessEngine:
    """An engine that is a process, and all that it has forked: an `Engine`."""

    def __init__(
        self, launch: Launch, process: Process, family: Family, output: Output, memory: "Memory"
    ) -> None:
        self.url = launch.url
        self.identity = f"process {process.pid}"
        self._process = process
        self._family = family
        self._output = output
        self._memory = memory
        self._oom = OomWatch()
        self._ending: asyncio.Task[None] | None = None
        self._life = asyncio.create_task(self._live())

    async def ended(self) -> Exit:
        return await asyncio.shield(self._life)

    async def stop(self, grace: float) -> None:
        await asyncio.shield(self._begin_end(grace))
        # Not `await self._life`: the kernel may hold for ever what it is to end.
        await asyncio.wait({self._life}, timeout=OWN_END)
        await self._memory.freed()

    end = stop

    def _begin_end(self, grace: float) -> asyncio.Task[None]:
        self._family.within(grace)
        if self._ending is None:
            self._ending = asyncio.create_task(self._family.end())
        return self._ending

    async def _live(self) -> Exit:
        code = await self._process.wait()
        asked = self._ending is not None
        # Children that outlive an engine which died hold its memory and serve nobody.
        await self._begin_end(float("inf") if asked else 0)
        await self._output.close()
        self._memory.await_from(self._family.seen | {self._process.pid})
        status = 128 - code if code < 0 else code
        return Exit(status, oom_killed=not asked and self._oom.struck(status))


class Memory:
    """The GPU memory of one engine: what was in use before it, and whether it has been freed."""

    def __init__(self, gpus: GpuMemory, runtime: str, before: int | None) -> None:
        self._gpus = gpus
        self._runtime = runtime
        self._before = before
        self._waiting: asyncio.Task[None] | None = None

    def await_from(self, pids: set[int]) -> None:
        self._waiting = asyncio.create_task(self._wait(pids))

    async def freed(self) -> None:
        """Wait until it has been freed, as long as is reasonable."""
        if self._waiting is not None:
            await asyncio.shield(self._waiting)

    async def _wait(self, pids: set[int]) -> None:
        if not await self._gpus.freed(self._before, pids):
            words = "runtime %s: its GPU memory has not been freed within %g s"
            log.warning(words, self._runtime, LONGEST)


class ProcessDriver:
    """Starts engines as processes: a `Driver`.

    `owner` tells this gateway's engines from those of others on the machine, and is the same after
    a restart: the path of its database. `environ` is the environment that engines get a part of,
    None: that of this process.
    """

    def __init__(self, owner: str, environ: Mapping[str, str] | None = None) -> None:
        self._owner = hashlib.sha256(owner.encode()).hexdigest()[:16]
        self._environ = os.environ if environ is None else environ
        self._memories: dict[str, Memory] = {}
        self._undoing: set[asyncio.Task[None]] = set()

    async def start(self, launch: Launch, log: Log) -> ProcessEngine:
        memory = await self._prepare(launch)
        starting = asyncio.create_task(self._spawn(launch, log, memory))
        try:
            engine = await asyncio.shield(starting)
        except asyncio.CancelledError:
            undoing = asyncio.create_task(_undo(starting))
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            await asyncio.shield(undoing)
            raise
        self._memories[launch.runtime] = memory
        return engine

    async def clear(self, runtime: str) -> None:
        family = Family(self._mark(runtime))
        family.within(CLEAR_GRACE)
        await family.end()
        if family.seen:
            words = "runtime %s: ended %d processes that an earlier gateway had left"
            log.warning(words, runtime, len(family.seen))
            await self._gpus(()).freed(None, family.seen)

    async def _prepare(self, launch: Launch) -> Memory:
        """Wait until there is room for an engine. Raises StartFailed."""
        if not supported():
            raise StartFailed("engines can run as processes on Linux only: there is no /proc here")
        if launch.runtime in self._memories:
            await self._memories[launch.runtime].freed()
        if any("\0" in text for text in (*launch.command, *launch.environment.values())):
            raise StartFailed(f"{launch.command[0]} cannot be started: a null byte in what it gets")
        await _check_address(launch.host, launch.port)
        gpus = self._gpus(launch.devices)
        return Memory(gpus, launch.runtime, await gpus.used())

    async def _spawn(self, launch: Launch, log: Log, memory: Memory) -> ProcessEngine:
        try:
            output = await Output.open(log)
            keep_to_oneself()
            try:
                process = await asyncio.create_subprocess_exec(
                    *launch.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output.writing,
                    stderr=output.writing,
                    env=self._environment(launch),
                    start_new_session=True,
                )
            except BaseException:
                output.given()
                await output.close()
                raise
        except (OSError, ValueError) as error:
            raise StartFailed(f"{launch.command[0]} cannot be started: {error}") from None
        output.given()
        family = Family(f"{self._mark(launch.runtime)}{launch.generation}/", process.pid)
        return ProcessEngine(launch, process, family, output, memory)

    def _environment(self, launch: Launch) -> dict[str, str]:
        name, _, value = f"{self._mark(launch.runtime)}{launch.generation}/".partition("=")
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(launch.devices)} if launch.devices else {}
        # Without SPT_NOENV, the package setproctitle, which vLLM and SGLang use, erases the mark.
        kept = {name: value, "SPT_NOENV": "1"}
        return {**scrubbed(self._environ), **devices, **launch.environment, **kept}

    def _mark(self, runtime: str) -> str:
        """The beginning of the mark of all engines of a runtime."""
        return f"{MARK}={self._owner}/{runtime}/"

    def _gpus(self, devices: tuple[str, ...]) -> GpuMemory:
        return GpuMemory(devices, self._environ.get("PATH"))


async def _undo(starting: asyncio.Task[ProcessEngine]) -> None:
    with contextlib.suppress(StartFailed):
        engine = await starting
        await engine.stop(0)


async def _check_address(host: str, port: int) -> None:
    """Raises StartFailed if something listens there already.

    It might name the same model, and would be taken for the engine before that has given up.
    """
    loop = asyncio.get_running_loop()
    try:
        places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = places[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StartFailed(f"no engine can listen on {host}:{port}: {error.strerror}") from None
