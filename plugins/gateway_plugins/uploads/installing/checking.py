"""Whether the files of a folder are a model that an engine may load."""

import importlib
import importlib.util
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from gateway_plugins.uploads.installing.messages import Refusal

CONFIG = "config.json"
INDEX = ".index.json"
SAFETENSORS, GGUF = ".safetensors", ".gguf"
WEIGHTS = (SAFETENSORS, ".bin", GGUF)

LARGEST_HEADER = 100 * 1000 * 1000
"""Bytes of the header of a .safetensors file, by the rule of its library."""

LARGEST_JSON = 64 * 1024 * 1024

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of an element by its type."""

T = TypeVar("T")

Size = Annotated[int, Meta(ge=0)]


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[Size]
    data_offsets: tuple[Size, Size]


class _Index(msgspec.Struct):
    weight_map: dict[str, str] = {}


def check(folder: Path, *, is_single: bool) -> int:
    """Return the bytes of all files. Raises Refusal if they are no model, and OSError.

    `is_single`: the upload was one file of weights, which needs no description beside it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix in WEIGHTS]
    if not weights:
        raise _no_model("it has no file of weights (.safetensors, .bin or .gguf)")
    described = any(path.name == CONFIG for path in files)
    if not described and not is_single and all(path.suffix != GGUF for path in weights):
        raise _no_model(f"it has no {CONFIG}")
    for path in files:
        _check_file(path, folder)
    return sum(path.stat().st_size for path in files)


def _check_file(path: Path, folder: Path) -> None:
    name = path.relative_to(folder).as_posix()
    if path.name == CONFIG:
        _json(path, name, dict[str, msgspec.Raw])
    elif path.name.endswith(INDEX):
        _check_index(path, name)
    elif path.suffix == SAFETENSORS:
        check_safetensors(path, name)
    elif path.suffix == GGUF:
        check_gguf(path, name)


def _check_index(path: Path, name: str) -> None:
    named = set(_json(path, name, _Index).weight_map.values())
    beside = {one.name for one in path.parent.iterdir()}
    lost = sorted(one for one in named if one not in beside)
    if lost:
        raise _no_model(f"`{name}` names {len(lost)} files that are missing, such as `{lost[0]}`")


def check_safetensors(path: Path, name: str) -> None:
    """Check the header by the rule of the format, and by its library if that is installed.

    Raises Refusal, OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(LARGEST_HEADER, size - 8):
            raise _broken(name, "its header is longer than the file, or than 100 MB")
        header = file.read(length)
    try:
        found = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        found.pop("__metadata__", None)
        tensors = [msgspec.json.decode(one, type=_Tensor) for one in found.values()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(name, f"its header is not what it should be: {error}") from None
    _check_tensors(tensors, size - 8 - length, name)
    _check_by_library(path, name)


def _check_tensors(tensors: Sequence[_Tensor], size: int, name: str) -> None:
    """Check that the tensors cover all bytes after the header, each once."""
    at = 0
    for tensor in sorted(tensors, key=lambda one: one.data_offsets):
        begin, end = tensor.data_offsets
        bits = _BITS.get(tensor.dtype)
        if begin != at or end < begin:
            raise _broken(name, "its tensors leave gaps, or lie over one another")
        if bits is not None and prod(tensor.shape) * bits != (end - begin) * 8:
            raise _broken(name, "a tensor has another size than its shape and type say")
        at = end
    if at != size:
        raise _broken(name, f"its tensors have {at} bytes, and {size} follow the header")


def _check_by_library(path: Path, name: str) -> None:
    if importlib.util.find_spec("safetensors") is None:
        return
    library = importlib.import_module("safetensors")
    try:
        with library.safe_open(str(path), "np") as file:
            file.keys()
    except ImportError:
        return  # the header is well: for the tensors, which nobody needs here, it wants numpy
    except library.SafetensorError as error:
        raise _broken(name, str(error)[:200]) from None


def check_gguf(path: Path, name: str) -> None:
    """Check the first fields of a .gguf file. Raises Refusal, OSError."""
    with path.open("rb") as file:
        head = file.read(24)
    version = int.from_bytes(head[4:8], "little")
    tensors, pairs = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
    # A tensor and a pair take at least so many bytes.
    least = 24 + tensors * 24 + pairs * 13
    if len(head) < 24 or head[:4] != b"GGUF" or not 2 <= version <= 3:
        raise _broken(name, "it does not begin as a GGUF file of version 2 or 3")
    if path.stat().st_size < least:
        raise _broken(name, "it is shorter than its header says")


def _json(path: Path, name: str, kind: type[T]) -> T:
    if path.stat().st_size > LARGEST_JSON:
        raise _broken(name, "it is too large")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(name, f"it is not the JSON that it should be: {error}") from None


def _broken(name: str, problem: str) -> Refusal:
    return Refusal("bad_model", f"`{name}`: {problem}")


def _no_model(problem: str) -> Refusal:
    return Refusal("bad_model", f"this is no model: {problem}")
