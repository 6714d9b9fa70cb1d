"""The formats of exports: the rows of each, and the file that they go to."""

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import msgspec

from gateway import Trace
from gateway_plugins.trace_capture.exports.output import JsonLines, Output
from gateway_plugins.trace_capture.exports.parquet import ParquetFile
from gateway_plugins.trace_capture.exports.rollout import Rollout
from gateway_plugins.trace_capture.exports.rows import TraceRow, trace_row
from gateway_plugins.trace_capture.exports.torch_file import TorchFile
from gateway_plugins.trace_capture.exports.trainers import atif, nemo_rl, slime, trl, verl

PARQUET = "application/vnd.apache.parquet"


class File(NamedTuple):
    """A kind of file. `is_text`: it can go to a terminal and a pipe."""

    suffix: str
    media_type: str
    open: Callable[[BinaryIO, type[msgspec.Struct]], Output]
    is_text: bool = False


JSONL = File("jsonl", "application/x-ndjson", lambda stream, _: JsonLines(stream), is_text=True)
PARQUET_FILE = File("parquet", PARQUET, ParquetFile)
TORCH_FILE = File("pt", "application/octet-stream", lambda stream, _: TorchFile(stream))


class Trainer(NamedTuple):
    """The rows of a trainer, their type, and their file."""

    row_of: Callable[[Rollout], msgspec.Struct]
    row_type: type[msgspec.Struct]
    file: File


PLAIN: dict[str, File] = {"jsonl": JSONL, "parquet": PARQUET_FILE}
"""Formats of the gateway's own rows."""

TRAINERS: dict[str, Trainer] = {
    "verl": Trainer(verl.row_of, verl.VerlRow, PARQUET_FILE),
    "trl": Trainer(trl.row_of, trl.TrlRow, PARQUET_FILE),
    "nemo-rl": Trainer(nemo_rl.row_of, nemo_rl.NemoRlRow, JSONL),
    "slime": Trainer(slime.row_of, slime.SlimeRow, TORCH_FILE),
    "atif": Trainer(atif.row_of, atif.AtifRow, JSONL),
}
"""Formats of trainers, which hold trajectories only."""


def _same(trace: Trace) -> msgspec.Struct:
    return trace


class OfTraces(NamedTuple):
    """How a plain format has traces: the row of each, and its type."""

    row_of: Callable[[Trace], msgspec.Struct]
    row_type: type[msgspec.Struct]


TRACES: dict[str, OfTraces] = {
    "jsonl": OfTraces(_same, Trace),
    "parquet": OfTraces(trace_row, TraceRow),
}

FORMATS = (*PLAIN, *TRAINERS)


def file_of(name: str) -> File:
    """Return the kind of file of a format."""
    return TRAINERS[name].file if name in TRAINERS else PLAIN[name]
