"""Runs a command in processes of its own, within limits."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from gateway import NOT_JSON
from gateway_plugins.evaluations.children.users import User
from gateway_plugins.evaluations.options import Options

CONFINE = Path(__file__).parent.parent / "programs" / "confine.py"

OUR_PYTHON = (sys.executable, "-I", "-S")
"""For programs of this plugin: they need the standard library only, and begin sooner."""

TAIL = 4_000
"""Bytes of a log that an error repeats."""

REASONS = {
    "timeout": "it took longer than {timeout} s (timeout)",
    "memory": "it used more than {memory} bytes of memory (max_memory_bytes)",
    "processes": "it had more than {processes} processes at a time (max_processes)",
    "output": "it wrote more than {output} bytes in all ({output_option})",
    "folders": "it made folders in which its files cannot be counted",
    "canceled": "it was ended",
}


class Limits(msgspec.Struct, frozen=True):
    """Seconds, bytes of memory, bytes of all that it writes, and processes at a time."""

    timeout: float
    memory: int
    output: int
    processes: int
    output_option: str = "max_output_bytes"

    @classmethod
    def of(cls, options: Options, timeout: float | None = None) -> "Limits":
        """Return those of the options for a step; `timeout` in place of that of a step."""
        return cls(
            options.timeout if timeout is None else timeout,
            options.max_memory_bytes,
            options.max_output_bytes,
            options.max_processes,
        )

    @classmethod
    def for_building(cls, options: Options) -> "Limits":
        """Return those of the options for a part of building an environment."""
        return cls(
            options.build_timeout,
            options.max_memory_bytes,
            options.max_build_bytes,
            options.max_processes,
            "max_build_bytes",
        )


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `name` is for the files `{name}.out` and `{name}.log` in `folder`.

    What is in the folders `written` counts for the limit. `user`: None: that of the gateway.
    """

    name: str
    arguments: Sequence[str]
    cwd: Path
    folder: Path
    environment: Mapping[str, str]
    stdin: Path | None = None
    written: Sequence[Path] = ()
    user: User | None = None

    @property
    def stdout(self) -> Path:
        return self.folder / f"{self.name}.out"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


class Failed(Exception):
    """A command did not do its work; the message says why, with the end of its log."""


class _Verdict(msgspec.Struct):
    code: int
    reason: str | None


async def run(command: Command, limits: Limits, threads: Executor) -> None:
    """Run a command to its end, in one of the threads. Raises Failed.

    If this is cancelled, or this process dies, all processes of the command are killed.
    """
    started = _Started(command, limits)
    done = asyncio.get_running_loop().run_in_executor(threads, started.run)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        started.end()
        await asyncio.wait([done])
        raise


class _Started:
    def __init__(self, command: Command, limits: Limits) -> None:
        self._command = command
        self._limits = limits
        self._lock = threading.Lock()
        self._is_ended = False
        self._process: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """End the command: its guard sees that standard input is closed."""
        with self._lock:
            self._is_ended = True
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def run(self) -> None:
        command, limits = self._command, self._limits
        verdict = command.folder / f"{command.name}.verdict"
        verdict.unlink(missing_ok=True)
        plan = {
            "command": command.arguments,
            "cwd": str(command.cwd),
            "stdin": None if command.stdin is None else str(command.stdin),
            "stdout": str(command.stdout),
            "stderr": str(command.log),
            "verdict": str(verdict),
            "user": None if command.user is None else command.user.ids,
            "written": [str(place) for place in command.written],
            **msgspec.structs.asdict(limits),
        }
        arguments = [*OUR_PYTHON, str(CONFINE), msgspec.json.encode(plan).decode()]
        with self._lock:
            if self._is_ended:
                return
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(command.environment),
                start_new_session=True,
            )
        with self._process as process:
            process.wait()
        self._judge(verdict)

    def _judge(self, file: Path) -> None:
        try:
            verdict = msgspec.json.decode(file.read_bytes(), type=_Verdict)
        except (OSError, *NOT_JSON):
            verdict = _Verdict(1, None)
        if verdict.reason is not None:
            text = REASONS[verdict.reason].format(**msgspec.structs.asdict(self._limits))
        elif verdict.code:
            text = f"it ended with the status {verdict.code}"
        else:
            return
        raise Failed(f"{self._command.name}: {text}{tail(self._command.log)}")


def tail(log: Path) -> str:
    """Return the end of a log, after a colon; "" if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            text = file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f": {text}" if text else ""
