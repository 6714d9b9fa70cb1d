"""Writes the output file and the error file of a batch, in the order of its input."""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from gateway import NOT_JSON, Database
from gateway_plugins.batch.queue.items import CANCELED, CANCELLED, COMPLETED, EXPIRED, ItemError
from gateway_plugins.batch.queue.texts import unpack

SLICE = 200
"""Items that are read by one query: a long one would keep the database's journal from shrinking."""

TIMED_OUT = "request_timeout"

_TIMEOUT = re.compile(r"upstream_\w*timeout")

_LINES = """
SELECT line, i.id, custom_id, state, status, error, request_id, answer
FROM batch_items AS i LEFT JOIN batch_answers AS a ON a.number = i.number
WHERE batch = :batch AND line > :after ORDER BY line LIMIT :limit
"""


class Response(msgspec.Struct):
    """The response of a worker, or of the gateway itself. `body` is a text if it is no JSON."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class ResultLine(msgspec.Struct):
    """A line of an output file or an error file: `response` or `error` is None."""

    id: str
    custom_id: str
    response: Response | None
    error: ItemError | None

    @property
    def is_success(self) -> bool:
        return self.response is not None and self.response.status_code < 300


class Done(msgspec.Struct, frozen=True):
    """An item that is over, as the database has it."""

    line: int
    id: str
    custom_id: str
    state: int
    status: int | None
    error: str | None
    request_id: str | None
    answer: bytes | None

    @property
    def reason(self) -> ItemError:
        """Why it has no response."""
        if self.error is None:
            return ItemError("unknown", "the request ended without a response")
        error = msgspec.json.decode(self.error, type=ItemError)
        if self.state == CANCELED and error.code != CANCELLED:
            return ItemError(CANCELLED, error.message)
        return ItemError(TIMED_OUT, error.message) if _TIMEOUT.fullmatch(error.code) else error

    def result(self) -> ResultLine:
        """Return what a caller gets."""
        if self.answer is None or self.status is None or self._has_no_answer:
            return ResultLine(self.id, self.custom_id, None, self.reason)
        try:
            answer = unpack(self.answer)
        except ValueError:
            lost = ItemError("response_lost", "the stored response is damaged")
            return ResultLine(self.id, self.custom_id, None, lost)
        response = Response(self.status, self.request_id or self.id, _body(answer))
        return ResultLine(self.id, self.custom_id, response, None)

    @property
    def _has_no_answer(self) -> bool:
        """Whether its response was none: it broke off, or took too long."""
        if self.state == COMPLETED:
            return False
        return self.status is None or self.status < 400 or self.reason.code == TIMED_OUT


def _body(answer: bytes) -> msgspec.Raw:
    """Return a response's body as JSON on one line; sound and the like become base64."""
    try:
        text = answer.decode()
    except UnicodeDecodeError:
        return msgspec.Raw(msgspec.json.encode(b64encode(answer).decode()))
    try:
        msgspec.json.decode(answer, type=msgspec.Raw)
    except NOT_JSON:
        return msgspec.Raw(msgspec.json.encode(text))
    if b"\n" in answer or b"\r" in answer:
        answer = msgspec.json.format(answer, indent=-1)
    return msgspec.Raw(answer)


# Within JSON these stand in strings only; many readers take them for line ends.
_LINE_ENDS = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)


def encoded(line: ResultLine) -> bytes:
    """Return the line, with a line end, and with nothing else that might be taken for one."""
    text = msgspec.json.encode(line)
    for found, escaped in _LINE_ENDS:
        text = text.replace(found, escaped)
    return text + b"\n"


class Part:
    """A file that is being written, in a `with` block; what is left at its end is deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = self.bytes = 0
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._file = self.path.open("xb")
        return self

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self.lines += 1
        self.bytes += len(line)

    def place(self, target: Path) -> None:
        """Put the file in its place if it has lines, once they are on the disk."""
        if self.lines:
            self._file.flush()
            os.fsync(self._file.fileno())
            self.path.rename(target)

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Written(msgspec.Struct, frozen=True):
    """Bytes of the output file and the error file; None: there is none. `expired` counts lines."""

    output: int | None
    errors: int | None
    expired: int


def write(
    db: Database,
    batch: int,
    output: tuple[Path, Path],
    errors: tuple[Path, Path],
    step: Callable[[], None],
) -> Written:
    """Write both files, each to the first of its paths and then to the second.

    Blocks for seconds, with one line in memory. Calls `step` before each line. Raises OSError,
    StorageError.
    """
    expired = 0
    with Part(output[0]) as good, Part(errors[0]) as bad:
        for done in _items(db, batch):
            step()
            result = done.result()
            expired += result.error is not None and result.error.code == EXPIRED
            (good if result.is_success else bad).write(encoded(result))
        good.place(output[1])
        bad.place(errors[1])
        return Written(_size(good), _size(bad), expired)


def _size(part: Part) -> int | None:
    return part.bytes if part.lines else None


def _items(db: Database, batch: int) -> Iterator[Done]:
    after, is_more = 0, True
    while is_more:
        is_more = False
        for row in db.select(_LINES, {"batch": batch, "after": after, "limit": SLICE}):
            done = Done(*row)
            after, is_more = done.line, True
            yield done
