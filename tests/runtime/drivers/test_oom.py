"""Whether the kernel ended an engine for want of memory; its counters are files here."""

from pathlib import Path

import pytest
from gateway_plugins.runtime.drivers.machine.oom import OomWatch


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def count(root: Path, kills: int, *, own: bool) -> None:
    if own:
        write(root, "proc/self/cgroup", "1:memory:/old\n0::/my.slice/gateway\n")
        text = f"low 0\nhigh 3\noom 9\noom_kill {kills}\noom_group_kill 0\n"
        write(root, "sys/fs/cgroup/my.slice/gateway/memory.events", text)
    else:
        write(root, "proc/self/cgroup", "0::/\n")
        write(root, "proc/vmstat", f"nr_free_pages 1\noom_kill {kills}\n")


@pytest.mark.parametrize(
    ("own", "code", "struck"),
    [(True, 137, True), (True, 1, True), (False, 137, True), (False, 1, False)],
)
def test_a_risen_counter_tells_of_a_kill(
    tmp_path: Path, own: bool, code: int, struck: bool
) -> None:
    count(tmp_path, 4, own=own)
    watch = OomWatch(tmp_path)
    assert not watch.struck(137), "137 alone is not enough"
    count(tmp_path, 5, own=own)
    assert watch.struck(code) == struck


def test_without_counters_nothing_is_known(tmp_path: Path) -> None:
    assert not OomWatch(tmp_path).struck(137)


def test_the_counters_of_this_machine_can_be_read() -> None:
    assert not OomWatch().struck(1)
