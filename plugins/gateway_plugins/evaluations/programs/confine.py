"""Runs one command within limits, and ends all processes that the command leaves behind.

    python -I confine.py PLAN

PLAN is a JSON object: `command`; `cwd`; `stdin`, a path or null; `stdout`, `stderr` and `verdict`,
paths; the limits `timeout` (seconds), `memory` (bytes), `output` (bytes of each file written) and
`processes` (at a time). The command also ends if standard input of this program does: whoever
started it is gone. The verdict is `{"code", "reason"}`: the exit status, or why it was killed.

If the machine permits it, the command has namespaces of its own: it sees no process but its own,
and none of these can outlive it.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

Plan = dict[str, Any]

LOOK = 0.2
"""Seconds between two looks at memory and processes."""

NEW_USERS, NEW_PROCESSES, NEW_MOUNTS = 0x10000000, 0x20000000, 0x00020000
PRIVATE = 0x4000 | 0x40000
DIES_WITH_PARENT, ADOPTS_ORPHANS = 1, 36
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
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(plan["stdin"] or os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(plan["stdout"], writing, 0o600), 1)
    os.dup2(os.open(plan["stderr"], writing, 0o600), 2)


def _watch(first: int, plan: Plan) -> str | None:
    """Wait for the end of the command; return why it has to be killed, None if it ended."""
    ends = time.monotonic() + plan["timeout"]
    ended = os.pidfd_open(first)
    while True:
        ready = select.select([0, ended], [], [], LOOK)[0]
        if ended in ready:
            return None
        if 0 in ready and not os.read(0, 1):
            return "canceled"
        if time.monotonic() > ends:
            return "timeout"
        found = list(_family(first))
        if len(found) > plan["processes"]:
            return "processes"
        if sum(map(_memory, found)) > plan["memory"]:
            return "memory"


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


def _memory(pid: int) -> int:
    """Return the resident bytes that the process does not share with a file."""
    try:
        fields = Path("/proc", str(pid), "statm").read_bytes().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def _shell_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
