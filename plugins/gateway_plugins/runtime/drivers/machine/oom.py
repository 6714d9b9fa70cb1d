"""Whether the kernel ended a process for want of memory, as far as its counters tell."""

from pathlib import Path

KILLED = 137
"""The exit status, as a shell shows it, of a process that SIGKILL ended."""


class OomWatch:
    """Compares the kernel's count of such ends with that at the time of its construction.

    The counter of this process's own control group is used, in which its engines are; if there is
    none, that of the whole machine, which counts for a process ended by SIGKILL only.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._own = _own_counter(root)
        self._file = self._own or root / "proc/vmstat"
        self._before = self._count()

    def struck(self, code: int) -> bool:
        """Whether one was ended so since, and a process with this exit status may be it."""
        now = self._count()
        if self._before is None or now is None or now <= self._before:
            return False
        return self._own is not None or code == KILLED

    def _count(self) -> int | None:
        try:
            lines = self._file.read_text().splitlines()
        except OSError:
            return None
        counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
        return int(counts[0]) if counts else None


def _own_counter(root: Path) -> Path | None:
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = [line.removeprefix("0::/") for line in groups if line.startswith("0::/")]
    files = [root / "sys/fs/cgroup" / path / "memory.events" for path in paths]
    return next((file for file in files if file.exists()), None)
