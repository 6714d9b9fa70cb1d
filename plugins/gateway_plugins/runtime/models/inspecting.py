"""Whether a folder has all files that an engine needs to load a model from it."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

MOST_FILES = 10_000
"""Files of a folder that are looked at."""

LARGEST_INDEX = 64 << 20
"""Bytes of an index that is read."""

FORMATS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""Endings of files with weights that engines load. `.bin` and `.pt` are of PyTorch."""

INDEX = ".index.json"

DESCRIPTIONS = ("config.json", "params.json")
"""Files of which a model has one. A `.gguf` needs none."""

NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt")

_SHARD = re.compile(r"(?P<group>.*)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})(?P<format>\.\w+)")


class Files(msgspec.Struct, frozen=True):
    """The files of a folder: their number, their bytes, and whether none is missing."""

    count: int = 0
    size: int = 0
    whole: bool = False


class _Index(msgspec.Struct):
    weight_map: dict[str, str] = {}


def inspect(folder: Path) -> Files:
    """Return what is in a folder; nothing, if there is none. Reads the disk.

    A link to a file that is not there is no file.
    """
    sizes = _sizes(folder)
    indexes = {name: _named_in(folder / name) for name in sizes if name.endswith(INDEX)}
    return Files(len(sizes), sum(sizes.values()), is_whole(sizes, indexes))


def is_whole(names: Collection[str], indexes: Mapping[str, Collection[str]]) -> bool:
    """Whether the weights of one format are all there, and what describes them.

    `indexes` has the names of the files that each `.index.json` names. A file whose name has a
    number, as `model-00001-of-00002.safetensors`, needs the others of its group.
    """
    here = {name for name in names if "/" not in name}
    described = not here.isdisjoint(DESCRIPTIONS)
    return any(
        (described or ending == ".gguf") and _has_all(here, names, indexes, ending)
        for ending in FORMATS
    )


def weights_in(names: Collection[str], ending: str) -> set[str]:
    """Return the files with weights of a format."""
    return {name for name in names if name.endswith(ending) and name not in NO_WEIGHTS}


def _has_all(
    here: set[str], names: Collection[str], indexes: Mapping[str, Collection[str]], ending: str
) -> bool:
    weights = weights_in(here, ending)
    if not weights or not _groups_are_whole(weights):
        return False
    named = (files for name, files in indexes.items() if name.endswith(ending + INDEX))
    return all(set(files) <= set(names) for files in named)


def _groups_are_whole(names: Collection[str]) -> bool:
    groups: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for found in map(_SHARD.fullmatch, names):
        if found is not None:
            groups[found["group"], found["count"]].add(found["number"])
    return all(len(numbers) >= int(count) for (_, count), numbers in groups.items())


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file below a folder, by its path there."""
    sizes: dict[str, int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if len(sizes) == MOST_FILES:
                return sizes
            if path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


def _named_in(path: Path) -> set[str]:
    """Return the files that an index names; none, if it cannot be read."""
    try:
        if path.stat().st_size > LARGEST_INDEX:
            return set()
        found = msgspec.json.decode(path.read_bytes(), type=_Index)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return set()
    return set(found.weight_map.values())
