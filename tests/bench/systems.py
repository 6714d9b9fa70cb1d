"""What can be measured: something that is started before a worker, and is called."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"

SESSIONS = 100
"""That calls are of, where it does not matter how many there are."""

WAIT = 60.0
"""Seconds until a system that was started has to answer."""


class Place(msgspec.Struct, frozen=True):
    """Where a system runs: a folder of its own, the port to listen on, and that of the workers."""

    folder: Path
    port: int
    worker_port: int

    @property
    def worker(self) -> str:
        return f"http://127.0.0.1:{self.worker_port}"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """How one is run, and called; in `path`, %s stands for a session's id.

    `configuration` is what it was given in a file. `traces` is the file that every call is in once
    it is answered. `grpc_port` is where it serves gRPC, 0: nowhere.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = {}
    path: str = CHAT
    wait: float = WAIT
    configuration: str = ""
    traces: Path | None = None
    grpc_port: int = 0


class System(msgspec.Struct, frozen=True, kw_only=True):
    """`command` prepares the place, and may be slow; None is no system: the worker itself.

    It stands before so many `workers`, and its callers have so many `keys` (0: none) and
    `sessions`. The folder of one that is `kept` is the same in all rounds. `dav`: files are put
    into its path `/uploads/`.
    """

    name: str
    version: str = ""
    command: Callable[[Place], Command] | None = None
    workers: int = 1
    keys: int = 0
    sessions: int = SESSIONS
    kept: bool = False
    dav: bool = False


DIRECT = System(name="direct")


def named(name: str, build: str) -> str:
    """The name of a system in an earlier build; "" is the present one."""
    return f"{name} @ {build}" if build else name
