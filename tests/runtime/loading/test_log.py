"""The log of a start: its tail, its file, and what may go wrong with the disk."""

import asyncio
import logging
import os
import re
import stat
import threading
from pathlib import Path
from time import monotonic, thread_time

import pytest
from gateway_plugins.runtime.loading import log_file
from gateway_plugins.runtime.loading.log import MOST_LINES, MOST_PENDING, EngineLog
from gateway_plugins.runtime.loading.log_file import LogFile


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


async def test_fault_6_06_a_log_has_a_file_without_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "a/logs"
    log = await EngineLog.open(folder, "org/Small: 1", {"hf_secret"})
    path = log.path
    assert path is not None
    assert re.fullmatch(r"\d{8}-\d{6}_org_Small__1\.log", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    log.write(b"one hf_se")
    log.write(b"cret\ntwo")
    await log.close()
    assert path.read_text() == "one ***\ntwo\n"
    assert log.tail == ["one ***", "two"]
    assert log.path == path


async def test_a_failed_start_has_its_reason_in_the_name(tmp_path: Path) -> None:
    log = await EngineLog.open(tmp_path, "m", ())
    log.write(b"bang\n")
    await log.close("runtime_oom")
    assert log.path is not None
    assert log.path.name.endswith("_m_runtime_oom.log")
    assert names(tmp_path) == {log.path.name}
    assert log.path.read_text() == "bang\n"


async def test_the_tail_is_short_and_each_line_counts_as_progress(tmp_path: Path) -> None:
    log = await EngineLog.open(tmp_path, "m", ())
    before = log.latest
    log.write(b"no end yet")
    assert log.latest == before
    log.write(b"\n")
    assert before < log.latest <= monotonic()
    log.write(b"".join(b"%d\n" % number for number in range(500)))
    assert log.tail == [str(number) for number in range(500 - MOST_LINES, 500)]
    await log.close()


async def test_fault_6_06_a_model_has_20_files_at_most(tmp_path: Path) -> None:
    others = ["20250101-000000_b.log", "20250101-000000_m_2.log", "notes.txt", "m.log"]
    old = [f"20240101-0000{number:02}_m{'_runtime_oom' * (number % 2)}.log" for number in range(25)]
    for name in (*others, *old):
        (tmp_path / name).touch()
    log = await EngineLog.open(tmp_path, "m", ())
    await log.close()
    assert log.path is not None
    assert names(tmp_path) == {*others, *old[6:], log.path.name}


async def test_starts_within_a_second_have_files_of_their_own(tmp_path: Path) -> None:
    logs = [await EngineLog.open(tmp_path, "m", ()) for _ in range(3)]
    for number, log in enumerate(logs):
        log.write(b"%d\n" % number)
        await log.close()
    assert [log.path.read_text() for log in logs if log.path] == ["0\n", "1\n", "2\n"]


async def test_fault_6_06_of_a_long_log_the_beginning_and_the_end_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MOST_BYTES", 1_000)
    monkeypatch.setattr(log_file, "HEAD", 100)
    monkeypatch.setattr(log_file, "TAIL", 300)
    file = log_file.LogFile(tmp_path, "m")
    for number in range(1_000):
        file.append(b"line %04d\n" % number)
        assert file.path.stat().st_size <= 1_000
    file.close(None)
    text = file.path.read_text()
    assert text.startswith("line 0000\nline 0001\n")
    assert text.endswith("line 0998\nline 0999\n")
    assert "bytes are left out here" in text


async def test_a_log_without_a_disk_is_kept_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = await EngineLog.open(tmp_path / "file", "m", ("secret",))
    log.write(b"a secret\n")
    await log.close("runtime_oom")
    assert log.path is None
    assert log.tail == ["a ***"]
    assert "the log of the engine of m is in no file" in caplog.text


async def test_a_full_disk_costs_the_file_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = log_file.LogFile(tmp_path, "m")
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, file._descriptor)
    os.close(full)
    log = EngineLog(file, ())
    log.write(b"one\n")
    await log.close("runtime_oom")
    log.write(b"two\n")
    await log.close()
    assert log.tail == ["one", "two"]
    assert "the rest of the log is in no file" in caplog.text
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(file._descriptor)


async def test_a_file_that_was_deleted_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = await EngineLog.open(tmp_path, "m", ())
    assert log.path is not None
    log.path.unlink()
    await log.close("runtime_crashed")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_what_a_slow_disk_does_not_take_is_bounded(tmp_path: Path) -> None:
    log = await EngineLog.open(tmp_path, "m", ())
    for _ in range(40):  # without a turn of the loop in between
        log.write(b"x" * 100_000 + b"\n")
    await log.close()
    assert log.path is not None
    assert log.path.stat().st_size <= MOST_PENDING


class SlowDisk(LogFile):
    """Takes nothing until it is `opened`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "m")
        self.reached = threading.Event()
        self.opened = threading.Event()

    def append(self, data: bytes) -> None:
        self.reached.set()
        assert self.opened.wait(20)
        super().append(data)


async def test_a_slow_disk_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path)
    log = EngineLog(disk, ())
    log.write(b"one\n")
    assert await asyncio.to_thread(disk.reached.wait, 20)
    log.write(b"two\n")
    assert log.tail == ["one", "two"]
    disk.opened.set()
    await log.close()
    assert disk.path.read_text() == "one\ntwo\n"


async def test_writing_costs_the_event_loop_little(tmp_path: Path) -> None:
    log = await EngineLog.open(tmp_path, "m", ("hf_" + "a" * 34, "b" * 64))
    data = b"INFO 12-01 12:00:00 [loggers.py:123] Engine 000: a usual line\n" * 1_000
    longest = 0.0
    for _ in range(20):
        before = thread_time()
        log.write(data)
        longest = max(longest, thread_time() - before)
        await asyncio.sleep(0)
    await log.close()
    assert longest < 0.1
