"""Archives that are refused, and what is there afterwards."""

import struct
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from gateway_plugins.uploads.installing.messages import Event, Installed, Job, Refused
from gateway_plugins.uploads.installing.program import Installation, refused
from support.uploads.asking import install, uploading
from support.uploads.models import (
    gguf,
    gz,
    installed,
    model,
    safetensors,
    tar,
    with_member,
    zst,
)

from gateway.testing import GatewayFor

MODEL = model()
INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"}}'


def member(name: str, kind: bytes, link: str = "") -> bytes:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return with_member(found)


def broken_header(data: bytes) -> bytes:
    """An archive whose second header is damaged."""
    second = 2 * 512
    return data[:second] + b"\xff" * 100 + data[second + 100 :]


def of(header: bytes, size: int = 64) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(size)


def tensors(header: bytes, size: int = 64) -> bytes:
    return tar({"config.json": b"{}", "model.safetensors": of(header, size)})


ONE = b'{"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}'

CASES: Mapping[str, tuple[bytes, str, str]] = {
    "a symbolic link": (member("a", tarfile.SYMTYPE, "/etc"), "bad_archive", "`a` is a symbolic"),
    "a hard link": (member("a", tarfile.LNKTYPE, "config.json"), "bad_archive", "a hard link"),
    "a device": (member("a", tarfile.CHRTYPE), "bad_archive", "a device"),
    "a block device": (member("a", tarfile.BLKTYPE), "bad_archive", "a device"),
    "a pipe": (member("a", tarfile.FIFOTYPE), "bad_archive", "a pipe"),
    "an absolute path": (tar({"/etc/x": b"x"}, ""), "bad_archive", "`/etc/x` is an absolute path"),
    "a way out": (tar({"a/../../x": b"x"}, ""), "bad_archive", "leads out"),
    "a backslash": (tar({"..\\x": b"x"}, ""), "bad_archive", "characters"),
    "a newline": (tar({"a\nb": b"x"}, ""), "bad_archive", "characters"),
    "a deep path": (tar({"d/" * 40 + "x": b"x"}, ""), "bad_archive", "too long"),
    "a long name": (tar({"n" * 300: b"x"}, ""), "bad_archive", "too long"),
    "twice": (tar(MODEL)[:-9216] + tar(MODEL), "bad_archive", "there twice"),
    "file and folder": (tar({"a": b"x", "a/b": b"x"}, ""), "bad_archive", "file and as a folder"),
    "a truncated tar": (tar(MODEL)[:700], "bad_archive", "truncated"),
    "a tar without its end": (tar(MODEL)[: 4 * 512], "bad_archive", "truncated"),
    "a broken tar": (broken_header(tar(MODEL)), "bad_archive", "broken"),
    "a truncated zstd": (zst(tar(MODEL))[:-20], "bad_archive", "zstd data is truncated"),
    "a broken zstd": (zst(tar(MODEL))[:12] + b"garbage", "bad_archive", "zstd data is"),
    "a truncated gzip": (gz(tar(MODEL))[:-10], "bad_archive", "gzip data is truncated"),
    "a broken gzip": (gz(tar(MODEL))[:60] + b"\0" * 40, "bad_archive", "broken"),
    "no archive": (b"hello " * 200, "bad_archive", ""),
    "nothing": (b"", "bad_archive", ""),
    "no config": (tar({"model.safetensors": safetensors()}), "bad_model", "no config.json"),
    "no weights": (tar({"config.json": b"{}"}), "bad_model", "no file of weights"),
    "config of another kind": (
        tar({**MODEL, "config.json": b"[]"}),
        "bad_model",
        "`config.json`: it is not the JSON",
    ),
    "a shard is missing": (
        tar({**MODEL, "model.safetensors.index.json": INDEX}),
        "bad_model",
        "names 2 files that are missing",
    ),
    "a short header": (tar({**MODEL, "model.safetensors": b"abc"}), "bad_model", "header is long"),
    "a header beyond the file": (
        tar({**MODEL, "model.safetensors": struct.pack("<Q", 1 << 40) + b"{}"}),
        "bad_model",
        "its header is longer than the file",
    ),
    "a header of no JSON": (tensors(b"{..."), "bad_model", "its header is not"),
    "tensors that are too short": (tensors(ONE, 60), "bad_model", "64 bytes, and 60 follow"),
    "tensors with a gap": (tensors(ONE.replace(b"[0, 64]", b"[8, 72]"), 72), "bad_model", "gaps"),
    "a tensor of another size": (
        tensors(ONE.replace(b'"U8"', b'"F32"')),
        "bad_model",
        "another size than its shape",
    ),
    "a negative offset": (tensors(ONE.replace(b"[0, 64]", b"[-8, 56]")), "bad_model", "header"),
    "a gguf of version 9": (b"GGUF" + bytes([9]) + bytes(40), "bad_model", "version 2 or 3"),
    "a gguf cut short": (gguf()[:8] + b"\xff" * 8 + bytes(8), "bad_model", "shorter than"),
}


def run(folder: Path, data: bytes) -> list[Event]:
    """The events of the program that installs."""
    file = folder / "upload"
    file.write_bytes(data)
    job = Job(
        id="0" * 32,
        model="org/tiny",
        owner="",
        replaces="any",
        files=(str(file),),
        lock=str(folder / "lock"),
        cache=str(folder / "cache"),
        filename="",
        expected="",
        max_ratio=4.0,
        max_unpacked_bytes=1 << 30,
        max_members=100,
        keep_free=0,
    )
    events: list[Event] = []
    try:
        events.append(Installation(job, events.append).run())
    except Exception as error:  # noqa: BLE001  as in the program
        events.append(refused(error))
    return events


@pytest.mark.parametrize("case", CASES)
def test_fault_9_8_what_is_refused_is_named(tmp_path: Path, case: str) -> None:
    data, code, text = CASES[case]
    last = run(tmp_path, data)[-1]
    assert isinstance(last, Refused)
    assert last.code == code
    assert text in last.text
    assert not list((tmp_path / "cache").iterdir())
    assert not (tmp_path / "x").exists()


async def test_fault_9_5_refused_archives_leave_the_model_that_is_there(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    assert (await install(live, tar(MODEL)))["status"] == "completed"
    for case in ("a symbolic link", "a truncated zstd", "a shard is missing"):
        data, code, text = CASES[case]
        found = await install(live, data, overwrite=None)
        assert (found["status"], found["code"]) == ("failed", code), (case, found)
        assert text in found["error"], (case, found)
    assert installed(tmp_path / "cache", "org/tiny") == MODEL
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["models--org--tiny"]


@pytest.mark.parametrize(
    ("options", "data", "code", "text"),
    [
        ({}, zst(tar({**MODEL, "zeros": bytes(80_000_000)})), "too_large", "uploads.max_ratio"),
        ({}, gz(tar({**MODEL, "zeros": bytes(80_000_000)})), "too_large", "uploads.max_ratio"),
        ({"max_unpacked_bytes": 5_000}, tar(MODEL), "too_large", "max_unpacked_bytes"),
        ({"max_members": 1}, tar(MODEL), "too_large", "uploads.max_members"),
    ],
    ids=["zstd bomb", "gzip bomb", "size", "members"],
)
async def test_fault_9_9_archives_that_unpack_to_too_much(
    gateway_for: GatewayFor,
    tmp_path: Path,
    options: Mapping[str, float],
    data: bytes,
    code: str,
    text: str,
) -> None:
    live = await uploading(gateway_for, tmp_path, **options)
    found = await install(live, data)
    assert (found["status"], found["code"]) == ("failed", code), found
    assert text in found["error"]
    assert not list((tmp_path / "cache").iterdir())


STRANGE = ONE.replace(b'"U8"', b'"Q8"')
"""A header of a type of which the own rule knows no size."""


async def test_headers_are_checked_by_the_library_where_it_is_installed(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    live = await uploading(gateway_for, tmp_path)
    found = await install(live, tensors(STRANGE))
    assert (found["status"], found["code"]) == ("failed", "bad_model"), found
    assert "Error while deserializing header" in found["error"]
    assert (await install(live, tensors(ONE)))["status"] == "completed"


def test_headers_are_checked_by_the_own_rule_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert isinstance(run(tmp_path, tensors(STRANGE))[-1], Installed)
    last = run(tmp_path, tensors(ONE, 60))[-1]
    assert isinstance(last, Refused)
    assert "64 bytes, and 60 follow" in last.text
