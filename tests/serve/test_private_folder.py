"""The folder that processes share is removed by the last of them, or by the next gateway."""

import fcntl
import os
import signal
from pathlib import Path

import pytest

from gateway.serve import private_folder as module
from gateway.serve.private_folder import MARK, PREFIX, PrivateFolder, private_folder


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "MEMORY", tmp_path)
    return tmp_path


def killed_gateway() -> None:
    """A process that has a folder, and dies without removing it."""
    pid = os.fork()
    if not pid:
        PrivateFolder()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_folder_of_a_killed_gateway_is_removed_by_the_next(memory: Path) -> None:
    killed_gateway()
    assert len(list(memory.iterdir())) == 1
    with private_folder() as folder:
        assert list(memory.iterdir()) == [folder.path]
        assert folder.path.stat().st_mode & 0o777 == 0o700
    assert not list(memory.iterdir())


def test_folders_of_living_gateways_and_of_other_programs_stay(memory: Path) -> None:
    other = memory / f"{PREFIX}of-another-program"
    other.mkdir()
    link = memory / f"{PREFIX}link"
    link.symlink_to(other)
    with private_folder() as first, private_folder() as second:
        assert first.path.exists()
        assert second.path.exists()
    assert sorted(memory.iterdir()) == sorted([other, link])


def test_link_to_a_marked_folder_is_not_followed(memory: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / MARK).touch()
    (memory / f"{PREFIX}link").symlink_to(target)
    with private_folder():
        assert (target / MARK).exists()


def test_folder_stays_until_the_last_process_has_ended(memory: Path) -> None:
    folder = PrivateFolder()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(reader, 1)
        folder.close()
        os._exit(0)
    folder.close()
    assert folder.path.exists()
    os.write(writer, b".")
    os.waitpid(pid, 0)
    assert not folder.path.exists()


def test_folder_on_a_file_system_without_locks_is_an_error_and_leaves_nothing(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="cannot be locked"):
        PrivateFolder()
    assert not list(memory.iterdir())
