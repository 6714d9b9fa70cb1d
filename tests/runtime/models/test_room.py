"""Which models make room for others on the disk."""

import os
from pathlib import Path

from gateway_plugins.runtime.loading.uploaded import UPLOADED
from gateway_plugins.runtime.models.records import Record
from gateway_plugins.runtime.models.room import chosen, disk_of, evictable
from hypothesis import given
from hypothesis import strategies as st


def record(folder: Path, used_at: float, *, fetched: bool = True, snapshots: int = 1) -> Record:
    for number in range(snapshots):
        (folder / "snapshots" / str(number)).mkdir(parents=True)
    return Record(str(folder), "main", "a/b", 1, fetched=fetched, whole=True, used_at=used_at)


def test_fault_5_9_only_what_the_gateway_has_downloaded_is_removed_the_longest_unused_first(
    tmp_path: Path,
) -> None:
    records = [
        record(tmp_path / "late", 2),
        record(tmp_path / "early", 1),
        record(tmp_path / "found", 0, fetched=False),
        record(tmp_path / "shared", 0, snapshots=2),
        record(tmp_path / "gone", 0, snapshots=0),
        record(tmp_path / "uploaded", 0),
    ]
    (tmp_path / "uploaded" / UPLOADED).touch()
    assert evictable(records) == [str(tmp_path / "early"), str(tmp_path / "late")]


@given(sizes=st.lists(st.integers(0, 100)), lacking=st.integers(-10, 1000))
def test_as_few_are_removed_as_suffice_and_none_if_all_do_not(
    sizes: list[int], lacking: int
) -> None:
    folders = [str(number) for number in range(len(sizes))]
    records = [Record(one, "main", "a/b", size) for one, size in zip(folders, sizes, strict=True)]
    found = chosen(folders, records, lacking)
    assert found == folders[: len(found)]
    if lacking > sum(sizes):
        assert found == []
    else:
        assert sum(sizes[: len(found)]) >= lacking
        assert not found or sum(sizes[: len(found) - 1]) < lacking


def test_disk_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    found = disk_of(tmp_path / "a/b")
    assert found.total_bytes == os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks
