"""The process that downloads a model, seen from the gateway."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from gateway_plugins.runtime.drivers.machine.environment import scrubbed
from gateway_plugins.runtime.drivers.threads import in_thread
from gateway_plugins.runtime.finishing import finish
from gateway_plugins.runtime.models import hub_process
from gateway_plugins.runtime.models.hub_process import Done, Event, Job, Moved, Plan, Refused
from gateway_plugins.runtime.options import Model

STALLED = 300.0
"""Seconds without a byte after which a download has failed."""

GRACE = 5.0
"""Seconds for a download to end after it was told to."""

LONGEST_LINE = 1 << 16

ABOUT = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
"""Beginnings of the names of variables about the hub."""

PLACES = ("_HOME", "_CACHE", "_PATH")

QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Stopped(Exception):
    """The model was not downloaded, because of `refused`."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.text)
        self.refused = refused


def environment_of(
    environ: Mapping[str, str], secrets: Mapping[str, str], model: Model
) -> dict[str, str]:
    """Return the environment of a download: of the engine's, what is about the hub.

    `environ` is the gateway's environment. Paths in that of a container are the container's own.
    """
    own = {name: value for name, value in model.environment.items() if name.startswith(ABOUT)}
    if model.docker is not None:
        own = {name: value for name, value in own.items() if not name.endswith(PLACES)}
    tokens = {name: value for name, value in secrets.items() if name.startswith(ABOUT)}
    path = {name: environ[name] for name in ("PYTHONPATH",) if name in environ}
    return {**scrubbed(environ), **path, **tokens, **own, **QUIET}


async def fetch(
    job: Job,
    environment: Mapping[str, str],
    admit: Callable[[Plan], Awaitable[None]],
    moved: Callable[[int], None],
) -> Done:
    """Download what `job` says. Raises Stopped.

    `admit` gets the plan before any byte of the model comes, and raises Stopped if it is not to.
    `moved` gets how many bytes of the plan are there. If this is cancelled, nothing of the process
    is left.
    """
    process = _Process(job, environment)
    try:
        while True:
            event = await process.next()
            match event:
                case Plan():
                    await admit(event)
                    process.allow()
                case Moved():
                    moved(event.done)
                case Done():
                    return event
                case Refused():
                    raise Stopped(event)
    finally:
        await finish(process.stop())


class _Process:
    """The process, and the thread that reads its events."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._job = job
        self._environment = environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._life = in_thread(self._live)

    async def next(self) -> Event:
        """Return the next event. Raises Stopped if there is none for too long."""
        try:
            async with asyncio.timeout(STALLED):
                return await self._events.get()
        except TimeoutError:
            words = f"nothing came for {STALLED:g} s"
            raise Stopped(Refused("download_failed", words)) from None

    def allow(self) -> None:
        """Let the download begin."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # it has just ended
            assert self._process is not None  # it has told its plan
            assert self._process.stdin is not None
            self._process.stdin.write(b"go\n")

    async def stop(self) -> None:
        """End the process, and wait for its end."""
        with self._lock:
            self._is_stopped = True
            _close_input(self._process)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await asyncio.shield(self._life)
        if not self._life.done() and self._process is not None:
            self._process.kill()
        await self._life

    def _live(self) -> None:
        try:
            self._process = process = self._start()
        except OSError as error:
            self._tell(Refused("download_failed", f"{sys.executable} cannot be started: {error}"))
            return
        assert process.stdout is not None
        with process.stdout:
            while line := process.stdout.readline(LONGEST_LINE):
                self._tell(_event(line))
        status = process.wait()
        self._tell(Refused("download_failed", f"its process has ended with {status}"))

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", str(Path(hub_process.__file__))]
        with self._lock:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self._environment),
                bufsize=0,
                start_new_session=True,
            )
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # its end is told
                process.stdin.write(msgspec.json.encode(self._job) + b"\n")
            if self._is_stopped:
                _close_input(process)
        return process

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


def _event(line: bytes) -> Event:
    try:
        return msgspec.json.decode(line, type=Event)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Refused("download_failed", "its process has said what is no event")


def _close_input(process: "subprocess.Popen[bytes] | None") -> None:
    if process is not None and process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
