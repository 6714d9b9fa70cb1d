"""Tiny models, as files, as archives, and as what is wrong with archives."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import zstandard


def safetensors(size: int = 64, fill: bytes = b"\1") -> bytes:
    """A file with one tensor of `size` bytes."""
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + fill * size


def gguf() -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(32)


def model(fill: bytes = b"\1", size: int = 64) -> dict[str, bytes]:
    return {"config.json": b'{"model_type": "tiny"}', "model.safetensors": safetensors(size, fill)}


def tar(files: Mapping[str, bytes], top: str = "tiny/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            add(archive, top + name, content)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def with_member(member: tarfile.TarInfo) -> bytes:
    """An archive of a model, and something else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in model().items():
            add(archive, name, content)
        archive.addfile(member)
    return buffer.getvalue()


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def gz(data: bytes) -> bytes:
    return gzip.compress(data)


def installed(cache: Path, name: str) -> dict[str, bytes]:
    """The files of a model in a cache, found as the library of the hub finds them."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text()
    assert (folder / "snapshots" / "main").resolve() == snapshot.resolve()
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)
    return {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in files}
