"""The file of traces: an index of its calls in memory, each trace read again when it is wanted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from gateway import NOT_JSON, ConfigError, Trace, json_mistake
from gateway_plugins.replay.errors import RecordingUnreadable
from gateway_plugins.replay.requests import Rules

MAX_LINE = 512 << 20
"""Maximum bytes of a trace."""

NOT_KEPT = (
    "has no wire_response: record with `wire_responses: true` of trace_capture, with room for the "
    "response (max_answer_bytes), and without a redact_trace hook that changes more than metadata"
)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")

_decode = msgspec.json.Decoder(Trace).decode


class Step(NamedTuple):
    """A recorded call with a response: its number in its session, from 1, and its place."""

    number: int
    trace_id: str
    offset: int
    length: int


class Session(msgspec.Struct):
    """The calls of one recorded session, and the numbers of those with equal requests."""

    steps: list[Step] = []
    numbers: dict[bytes, list[int]] = {}


class Recording(msgspec.Struct):
    """The sessions of a file by their ids, that of calls without a session is "".

    `left_out` is the number of calls that are no steps: no worker responded, or the request was no
    JSON object.
    """

    path: str
    sessions: dict[str, Session]
    left_out: int = 0

    def trace(self, step: Step) -> Trace:
        """Read a trace, which blocks. Raises RecordingUnreadable if the file is not what it was."""
        try:
            with Path(self.path).open("rb") as file:
                file.seek(step.offset)
                trace = _decode(file.read(step.length))
        except (OSError, *NOT_JSON) as error:
            raise _changed(self.path) from error
        if trace.trace_id != step.trace_id:
            raise _changed(self.path)
        return trace


class _Found(NamedTuple):
    timestamp: float
    session_id: str
    digest: bytes
    trace_id: str
    offset: int
    length: int


def read_recording(path: str, rules: Rules) -> Recording:
    """Index a file of traces. Raises ConfigError: what is wrong, and in which line."""
    recording, found = Recording(path, {}), list[_Found]()
    try:
        with Path(path).open("rb") as file:
            for line, offset, text in _lines(file, path):
                one = _read(text, f"{path}:{line}", rules)
                if one is None:
                    recording.left_out += 1
                else:
                    found.append(one._replace(offset=offset, length=len(text)))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if not found:
        raise ConfigError(f"{path}: there is no trace with a worker's response in it")
    for one in sorted(found, key=lambda one: one.timestamp):
        session = recording.sessions.setdefault(one.session_id, Session())
        number = len(session.steps) + 1
        session.steps.append(Step(number, one.trace_id, one.offset, one.length))
        session.numbers.setdefault(one.digest, []).append(number)
    return recording


def _lines(file: BinaryIO, path: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, offset and text of each line that is not empty."""
    line, offset = 0, 0
    while text := file.readline(MAX_LINE + 1):
        line += 1
        if len(text) > MAX_LINE:
            raise ConfigError(f"{path}:{line}: the line is longer than {MAX_LINE} bytes")
        if not text.isspace():
            yield line, offset, text
        offset += len(text)


def _read(text: bytes, place: str, rules: Rules) -> _Found | None:
    """Return what the index needs of a trace; None if the call is no step."""
    try:
        trace = _decode(text)
    except NOT_JSON:
        raise ConfigError(f"{place}: this is no trace: {json_mistake(text, Trace)}") from None
    if trace.wire_response is None:
        if _was_answered(trace):
            raise ConfigError(f"{place}: the trace {trace.trace_id} {NOT_KEPT}")
        return None
    if trace.raw_request is None:  # it was no JSON object, and no later one can equal it
        return None
    _check_head(trace, place)
    try:
        digest = rules.digest(trace.path, trace.raw_request)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None
    return _Found(trace.timestamp, trace.session_id, digest, trace.trace_id, 0, 0)


def _was_answered(trace: Trace) -> bool:
    """Whether a worker responded to a call of which no bytes were kept."""
    responded = bool(trace.attempts) and trace.attempts[-1].status is not None
    return responded or bool(trace.choices) or "too_large" in trace.reasons


def _check_head(trace: Trace, place: str) -> None:
    """Raise ConfigError unless a server may send this head."""
    response = trace.wire_response
    if response is None:
        return
    if not 200 <= response.status <= 599:
        raise ConfigError(f"{place}: {response.status} is no status of a response")
    for name, value in response.headers:
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value) and value.isascii()):
            raise ConfigError(f"{place}: {name[:80]!r} is no header line of a response")


def _changed(path: str) -> RecordingUnreadable:
    return RecordingUnreadable(f"{path} is not as it was when the gateway read it")
