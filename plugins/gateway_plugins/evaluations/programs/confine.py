"""Runs one command within limits, and ends all processes that the command leaves behind.

    python -I confine.py PLAN

PLAN is a JSON object: `command`; `cwd`; `stdin`, a path or null; `stdout`, `stderr` and `verdict`,
paths; `user`, null or an object with the numbers `uid`, `gid` and `groups` that the command gets;
`written`, the folders in which it may write; the limits `timeout` (seconds), `memory` (bytes),
`output` (bytes of all that is in `written` and that it prints) and `processes` (at a time). The
command also ends if standard input of this program does: whoever started it is gone. The verdict
is `{"code", "reason"}`: the exit status, or why it was killed.

If the machine permits it, the command has namespaces of its own: it sees no process but its own,
and none of these can outlive it.
"""

import ctypes
import json
import os
import resource
import select
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

Plan = dict[str, Any]

LOOK = 0.2
"""Seconds between two looks at memory and processes, and at files if that does not take long."""

REST = 3.0
"""How often as long as a look at the files took there is none."""

ENTRY, BLOCK = 1024, 512
"""Bytes that each file takes beside its content, and those of a block in `st_blocks`."""

NEW_USERS, NEW_PROCESSES, NEW_MOUNTS = 0x10000000, 0x20000000, 0x00020000
PRIVATE, NO_DEVICES = 0x4000 | 0x40000, 0x2 | 0x4
DIES_WITH_PARENT, ADOPTS_ORPHANS, GAINS_NO_RIGHTS = 1, 36, 38
"""Flags of unshare, mount and prctl, as Linux numbers them."""

SYSTEM = ctypes.CDLL(None, use_errno=True)

NICE = 10
"""How much the command gives way to calls."""

PATIENCE = 30.0
"""Seconds for processes that were killed."""


def main() -> int:
    """Run the command of the plan."""
    plan: Plan = json.loads(sys.argv[1])
    _set_apart()
    SYSTEM.prctl(ADOPTS_ORPHANS, 1, 0, 0, 0)
    first = os.fork()
    if first == 0:
        _guard(plan)
    reason = _watch(first, plan)
    code = _end(first)
    verdict = {"code": code, "reason": reason}
    Path(plan["verdict"]).write_text(json.dumps(verdict), encoding="utf-8")
    return 0


def _set_apart() -> None:
    """Give processes that are forked from now on namespaces of their own, if that is permitted."""
    if os.geteuid() == 0:
        SYSTEM.unshare(NEW_PROCESSES)
        return
    user, group = os.geteuid(), os.getegid()
    if SYSTEM.unshare(NEW_USERS | NEW_PROCESSES) == 0:
        with suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")


def _guard(plan: Plan) -> NoReturn:
    """Be the first process of the namespace: start the command, and end with its status."""
    SYSTEM.prctl(DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    SYSTEM.prctl(ADOPTS_ORPHANS, 1, 0, 0, 0)
    if os.getpid() == 1 and SYSTEM.unshare(NEW_MOUNTS) == 0:
        SYSTEM.mount(b"none", b"/", None, PRIVATE, None)
        SYSTEM.mount(b"proc", b"/proc", b"proc", 0, None)
        size = f"size={plan['memory']},mode=1777".encode()  # else it would be in no one's memory
        SYSTEM.mount(b"tmpfs", b"/dev/shm", b"tmpfs", NO_DEVICES, size)
    child = os.fork()
    if child == 0:
        _execute(plan)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(_shell_code(status))


def _execute(plan: Plan) -> NoReturn:
    try:
        os.setsid()
        os.nice(NICE)
        _limit(plan)
        _redirect(plan)
        _drop(plan["user"])
        os.chdir(plan["cwd"])
        os.execvp(plan["command"][0], plan["command"])
    except OSError as error:
        os.write(2, f"{plan['command'][0]} cannot be started: {error}\n".encode())
    os._exit(127)


def _limit(plan: Plan) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, plan["output"])
    _lower(resource.RLIMIT_DATA, plan["memory"])


def _lower(kind: int, value: int) -> None:
    most = resource.getrlimit(kind)[1]
    low = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (low, low))


def _redirect(plan: Plan) -> None:
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    os.dup2(os.open(plan["stdin"] or os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(plan["stdout"], writing, 0o600), 1)
    os.dup2(os.open(plan["stderr"], writing, 0o600), 2)


def _drop(user: Plan | None) -> None:
    """Become that user, without a way back."""
    if user is not None:
        for number in (1, 2):
            os.fchown(number, user["uid"], user["gid"])  # it may open them by their names
        os.setgroups(user["groups"])
        os.setresgid(*[user["gid"]] * 3)
        os.setresuid(*[user["uid"]] * 3)
    SYSTEM.prctl(GAINS_NO_RIGHTS, 1, 0, 0, 0)


def _watch(first: int, plan: Plan) -> str | None:
    """Wait for the end of the command; return why it has to be killed, None if it ended."""
    ends = time.monotonic() + plan["timeout"]
    ended = os.pidfd_open(first)
    files = _Files(plan)
    while True:
        ready = select.select([0, ended], [], [], LOOK)[0]
        if ended in ready:
            return files.problem(())
        if 0 in ready and not os.read(0, 1):
            return "canceled"
        if time.monotonic() > ends:
            return "timeout"
        found = list(_family(first))
        if len(found) > plan["processes"]:
            return "processes"
        if _memory(found, plan["memory"]) > plan["memory"]:
            return "memory"
        if files.is_time() and (problem := files.problem(found)):
            return problem


class _Files:
    """What the command has on disks."""

    def __init__(self, plan: Plan) -> None:
        self._folders: list[str] = plan["written"]
        self._logs = (plan["stdout"], plan["stderr"])
        self._most: int = plan["output"]
        self._next = 0.0

    def is_time(self) -> bool:
        """Whether a look is due."""
        return time.monotonic() >= self._next

    def problem(self, pids: Iterable[int]) -> str | None:
        """Return why its files, and those that these processes have open, are too much."""
        begun = time.monotonic()
        try:
            used = sum(map(_usage, self._folders)) + sum(map(_size, self._logs))
        except OSError:  # paths that are too long, folders that forbid to be read
            return "folders"
        finally:
            now = time.monotonic()
            self._next = now + REST * (now - begun)
        return "output" if used + _unnamed(pids) > self._most else None


def _usage(folder: str) -> int:
    """Return the bytes on the disk of all that is in a folder. Raises OSError."""
    used, left = 0, [folder]
    while left:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                with suppress(FileNotFoundError):
                    used += entry.stat(follow_symlinks=False).st_blocks * BLOCK + ENTRY
    return used


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def _unnamed(pids: Iterable[int]) -> int:
    """Return the bytes of files that were deleted while these processes have them open."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with suppress(OSError):
                    one = entry.stat()
                    if stat.S_ISREG(one.st_mode) and not one.st_nlink:
                        found[one.st_dev, one.st_ino] = one.st_blocks * BLOCK
    return sum(found.values())


def _end(first: int) -> int:
    """Kill all that is left; return the exit status of the command, as a shell shows it."""
    with suppress(ProcessLookupError):
        os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    code = 0
    while time.monotonic() < deadline:
        for pid in _family(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == first:
            code = _shell_code(status)
        elif pid == 0:
            time.sleep(0.01)
    return code


def _family(ancestor: int) -> Iterator[int]:
    """Yield the descendants of a process, as this process sees them."""
    children: dict[int, list[int]] = {}
    for place in os.scandir("/proc"):
        if place.name.isdecimal() and (parent := _parent(place.name)):
            children.setdefault(parent, []).append(int(place.name))
    left = list(children.get(ancestor, ()))
    while left:
        pid = left.pop()
        yield pid
        left += children.get(pid, ())


def _parent(pid: str) -> int:
    try:
        text = Path("/proc", pid, "stat").read_bytes()
    except OSError:
        return 0
    return int(text.rpartition(b")")[2].split()[1])


def _memory(pids: list[int], most: int) -> int:
    """Return the bytes of processes that are in memory and in no file of a disk.

    What processes share counts once if the sum would be more than `most` otherwise.
    """
    used = sum(map(_resident, pids))
    return used if used <= most else sum(map(_share, pids))


def _resident(pid: int) -> int:
    return _sum(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:")) or 0


def _share(pid: int) -> int:
    found = _sum(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))
    return _resident(pid) if found is None else found


def _sum(file: str, names: tuple[bytes, ...]) -> int | None:
    """Return the sum of lines of a file, which are in KiB, as bytes; None if it is not there."""
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError:
        return None
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(names))


def _shell_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
