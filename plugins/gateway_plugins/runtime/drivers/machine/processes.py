"""The processes of this machine, as Linux tells them in /proc."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")

ENDED = frozenset("ZX")
"""States of processes that have ended; a zombie stays until its parent asks how."""


TRACKER = b"multiprocessing.resource_tracker"


class Process(NamedTuple):
    """A process. `group` is the process group, `state` a letter as in `ps`."""

    pid: int
    state: str
    parent: int
    group: int


def supported() -> bool:
    """Whether there is a /proc with what is read here."""
    return (PROC / "self/environ").exists()


def alive(pid: int) -> bool:
    found = _read(pid)
    return found is not None and found.state not in ENDED


def related(mark: bytes, group: int | None) -> list[Process]:
    """Return the living processes of an engine.

    Those whose environment has an entry that begins with `mark`, those in the process group, and
    the children of all these. This process is never among them.
    """
    living = [one for one in _all() if one.state not in ENDED and one.pid != os.getpid()]
    found = {one.pid for one in living if one.group == group or _marked(one.pid, mark)}
    while more := {one.pid for one in living if one.parent in found} - found:
        found |= more
    return [one for one in living if one.pid in found]


def is_tracker(pid: int) -> bool:
    """Whether it is the helper of Python's multiprocessing that deletes shared memory.

    It does that when all processes that may have used the memory are gone, and ends then.
    """
    return TRACKER in (_content(pid, "cmdline") or b"")


def reap(pids: Iterable[int]) -> None:
    """Take the exit status of those that have ended and become children of this process.

    Orphans do if this is process 1 of a container, and would be zombies for as long as it runs.
    """
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


def _all() -> Iterator[Process]:
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            found = _read(int(entry.name))
            if found is not None:
                yield found


def _read(pid: int) -> Process | None:
    text = _content(pid, "stat")
    if text is None:
        return None
    # The name of the program is in parentheses, and may have any.
    state, parent, group = text.rpartition(b")")[2].split()[:3]
    return Process(pid, state.decode("ascii"), int(parent), int(group))


def _marked(pid: int, mark: bytes) -> bool:
    entries = _content(pid, "environ") or b""
    return entries.startswith(mark) or b"\0" + mark in entries


def _content(pid: int, name: str) -> bytes | None:
    """The content of a file of a process, None if it has ended or belongs to another user."""
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return None
