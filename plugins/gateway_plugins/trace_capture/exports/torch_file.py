"""Writes a file that `torch.load` reads, without torch: a zip with a pickle in it.

The pickle is an object {"rollout_id": 0, "metadata": {}, "samples": [...]}, each sample an object
of plain values and of arrays. An array is pickled as calls of numpy's functions with its bytes, so
it is a numpy.ndarray when it is read. The reader needs `weights_only=False`.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import msgspec

from gateway_plugins.trace_capture.exports.arrays import Array

NAME = "rollout"
"""The folder within the zip; torch takes any."""

_NUMPY = {"int32": "<i4", "float32": "<f4"}


class TorchFile:
    """An Output of rows whose fields are plain values or Arrays."""

    def __init__(self, stream: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)
        self._zip.writestr(f"{NAME}/version", b"3\n")
        self._zip.writestr(f"{NAME}/byteorder", b"little")
        self._pickle = self._zip.open(f"{NAME}/data.pkl", "w", force_zip64=True)
        self._pickle.write(pickle.PROTO + bytes([3]) + pickle.EMPTY_DICT)
        for name, value in (("rollout_id", 0), ("metadata", {})):
            self._pickle.write(_plain(name) + _plain(value) + pickle.SETITEM)
        self._pickle.write(_plain("samples") + pickle.EMPTY_LIST)

    def write(self, row: msgspec.Struct) -> None:
        """Write a sample. Raises ValueError if a value is too large for the format."""
        try:
            data = sample(msgspec.structs.asdict(row))
        except (OverflowError, struct.error) as error:
            raise ValueError(str(error)) from None
        self._pickle.write(data + pickle.APPEND)

    def close(self) -> None:
        self._pickle.write(pickle.SETITEM + pickle.STOP)
        self._pickle.close()
        self._zip.close()


def sample(fields: Mapping[str, object]) -> bytes:
    """Return the operations that put an object of these fields on the reader's stack."""
    arrays = {name: value for name, value in fields.items() if isinstance(value, Array)}
    plain = {name: value for name, value in fields.items() if name not in arrays}
    added = [_plain(name) + _array(value) + pickle.SETITEM for name, value in arrays.items()]
    return _plain(msgspec.to_builtins(plain)) + b"".join(added)


def _plain(value: object) -> bytes:
    """Return the operations for a plain value: its pickle without the first and the last one."""
    return pickle.dumps(value, protocol=3)[2:-1]


def _array(one: Array) -> bytes:
    """Return the operations for numpy.array(numpy.reshape(numpy.frombuffer(data, type), shape))."""
    raw = _call("frombuffer", _bytes(one.data) + _plain(_NUMPY[one.dtype]))
    return _call("array", _call("reshape", raw + _plain(tuple(one.shape))))


def _call(function: str, arguments: bytes) -> bytes:
    called = pickle.GLOBAL + f"numpy\n{function}\n".encode()
    return called + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE


def _bytes(data: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(data)) + data
