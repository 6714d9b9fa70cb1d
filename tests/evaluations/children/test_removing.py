"""Folders that evaluations have filled are deleted, and nothing else is."""

import os
from pathlib import Path

import pytest
from gateway_plugins.evaluations.children.removing import remove


def deep(folder: Path, depth: int) -> None:
    """Make folders in each other, with a file in each; their paths would be too long."""
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for number in range(depth):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.mkdir("xxxx", dir_fd=here)
        inner = os.open("xxxx", os.O_RDONLY, dir_fd=here)
        if number % 7 == 0:
            os.fchmod(here, 0o500)
        os.close(here)
        here = inner
    os.close(here)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_folders_deeper_than_paths_may_be_long_are_deleted(tmp_path: Path) -> None:
    before = descriptors()
    deep(tmp_path / "one", 1100)
    remove(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    one = tmp_path / "one"
    (one / "inner").mkdir(parents=True)
    (one / "link").symlink_to(kept)
    (one / "inner" / "link").symlink_to(kept)
    (one / "inner" / "hard").hardlink_to(kept / "file")
    remove(one)
    assert not one.exists()
    assert [file.name for file in kept.iterdir()] == ["file"]
    one.symlink_to(kept)
    remove(one)
    assert not one.is_symlink()
    assert [file.name for file in kept.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_folder_goes_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    remove(tmp_path / name)
    assert not (tmp_path / name).exists()
