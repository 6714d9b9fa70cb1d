"""The gateway's log, as lines on standard error: JSON for programs, text for people.

No line contains data of a caller or a worker. The message of an exception may quote such data, so
the log has only the exception's type and its places in the code, unless the level is debug. The
same applies to reports of asyncio, uvicorn and the interpreter itself.
"""

import logging
import re
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Literal, TextIO

import msgspec

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.config import Config

log = logging.getLogger("gateway")

Written = Literal["auto", "text", "json"]

MAX_LINE_BYTES = 16 * 1024
"""Maximum bytes of a line (in text format: of all lines of a record)."""

SIZES = ((8192, 12), (1024, 4), (256, 1))
"""Maximum characters of a text and places of an exception; the first pair that fits is used."""

MAX_ERRORS = 4
"""Maximum exceptions of a record: the exception and its nearest causes."""

MAX_NAME_CHARS = 160
"""Maximum characters of a name: of a logger, a call, an exception's type, a place."""

_REPR = re.compile(r"[<{'\"]|\((?!\))")
"""The beginning of a repr."""


class Failure(msgspec.Struct, omit_defaults=True):
    """One exception: its type and its code places, outermost first, as `file:line:function`."""

    type: str
    where: list[str] = []
    said: str | None = None


class Line(msgspec.Struct, omit_defaults=True):
    """The fields of a JSON line. `errors`: the exception, then its causes.

    `fields` are those of a record with `extra={"fields": {...}}`: what happened, in numbers and
    names.
    """

    time: str
    level: str
    logger: str
    message: str
    call_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    process: int | None = None
    fields: dict[str, str | float | None] = {}
    errors: list[Failure] = []


class Formatter(logging.Formatter):
    """Formats records, each within MAX_LINE_BYTES. With `debug` exceptions include their messages.

    `process` is the index of this process if there are several, else None.
    """

    def __init__(self, *, debug: bool = False, process: int | None = None) -> None:
        super().__init__()
        self._debug = debug
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        for most, places in SIZES:
            written = self.write(self._line(record, most, places), record)
            if len(written.encode()) <= MAX_LINE_BYTES:
                break
        return written

    def write(self, line: Line, record: logging.LogRecord) -> str:
        """Format the line as JSON."""
        return msgspec.json.encode(line).decode()

    def _line(self, record: logging.LogRecord, most: int, places: int) -> Line:
        created = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        return Line(
            time=created.isoformat(timespec="milliseconds") + "Z",
            level=record.levelname.lower(),
            logger=clean(record.name, MAX_NAME_CHARS),
            message=clean(self._message(record), most),
            call_id=_id_of(record, "call_id"),
            trace_id=_id_of(record, "trace_id"),
            span_id=_id_of(record, "span_id"),
            process=self._process,
            fields=_fields_of(record),
            errors=[self._failure(one, most, places) for one in _chain(record)],
        )

    def _message(self, record: logging.LogRecord) -> str:
        """Never raises: if formatting fails, the message names the record's place in the code."""
        try:
            if self._debug:
                return record.getMessage()
            said = _message_of(record)
        except Exception:  # noqa: BLE001  an argument's __str__ may raise anything
            return f"a record cannot be written; it is made at {record.pathname}:{record.lineno}"
        return _without_reprs(said) if record.name == "asyncio" else said

    def _failure(self, error: BaseException, most: int, places: int) -> Failure:
        frames = traceback.walk_tb(error.__traceback__)
        where = deque((_place(frame.f_code, line) for frame, line in frames), maxlen=places)
        said = clean(_said(error), most) if self._debug else None
        return Failure(clean(_type(error), MAX_NAME_CHARS), list(where), said)


class TextFormatter(Formatter):
    """Formats one line per record, the call's id at its end; exceptions in indented lines below."""

    def write(self, line: Line, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record)} {line.level.upper():<7} {line.logger}: {line.message}"
        for name in ("call_id", "trace_id", "span_id", "process"):
            if (value := getattr(line, name)) is not None:
                head += f" {name}={value}"
        head += "".join(f" {name}={value}" for name, value in line.fields.items())
        return "\n".join([head, *(below for error in line.errors for below in _text_of(error))])


class Handler(logging.StreamHandler[TextIO]):
    """Writes to `stream` as `written`; `auto`: text if the stream is a terminal, else JSON."""

    def __init__(
        self,
        stream: TextIO,
        level: str = "info",
        written: Written = "auto",
        process: int | None = None,
    ) -> None:
        super().__init__(stream)
        self._terminal = stream.isatty()
        self._process = process
        self.write_as(level, written)

    def write_as(self, level: str, written: Written) -> None:
        text = self._terminal if written == "auto" else written == "text"
        kind = TextFormatter if text else Formatter
        self.setFormatter(kind(debug=level == "debug", process=self._process))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        """Do nothing: the library's version would print the record with its arguments."""


class Logs:
    """The log of a process that runs a gateway; `process` is its index if there are several."""

    def __init__(
        self,
        level: str,
        written: Written,
        stream: TextIO | None = None,
        process: int | None = None,
    ) -> None:
        self.handler = Handler(stream or sys.stderr, process=process)
        self._set(level, written)

    def begin(self) -> None:
        """Handle all log records and the interpreter's own reports from now on."""
        logging.getLogger().handlers[:] = [self.handler]
        warnings.showwarning = _warned
        sys.unraisablehook = _unraisable
        sys.excepthook = _uncaught
        threading.excepthook = _thread_ended

    def follow(self, config: "Config") -> None:
        """Apply the log settings of a reloaded configuration."""
        self._set(config.log_level, config.log_format)

    def _set(self, level: str, written: Written) -> None:
        logging.getLogger().setLevel(level.upper())
        self.handler.write_as(level, written)


def _id_of(record: logging.LogRecord, name: str) -> str | None:
    value = getattr(record, name, None)
    return clean(value, MAX_NAME_CHARS) if isinstance(value, str) else None


def _fields_of(record: logging.LogRecord) -> dict[str, str | float | None]:
    fields: dict[str, object] = getattr(record, "fields", None) or {}
    return {
        name: value if isinstance(value, int | float) else clean(str(value), MAX_NAME_CHARS)
        for name, value in fields.items()
        if value is not None
    }


def clean(text: str, most: int) -> str:
    """Return at most `most` printable characters: no line ends, no control sequences."""
    text = text[: most + 1]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else _escaped(one) for one in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _message_of(record: logging.LogRecord) -> str:
    """Return the message, with exceptions replaced by text that cannot quote private data."""
    if isinstance(record.msg, BaseException):
        return str(_told(record.msg))
    message, arguments = str(record.msg), record.args
    if not arguments:
        return message
    if isinstance(arguments, Mapping):
        return message % {name: _told(value) for name, value in arguments.items()}
    return message % tuple(map(_told, arguments))


def _told(argument: object) -> object:
    """Replace an exception by its type, unless its message is written for people to read.

    The errors of the gateway and of the system have such messages.
    """
    if not isinstance(argument, BaseException) or isinstance(argument, GatewayError):
        return argument
    if isinstance(argument, OSError) and argument.strerror:
        named = "" if argument.filename is None else f": {argument.filename}"
        return f"{argument.strerror}{named}"
    return _type(argument)


def _without_reprs(message: str) -> str:
    """Cut off the reprs that asyncio appends to its first line and below it: they contain data."""
    first = message.partition("\n")[0]
    found = _REPR.search(first)
    return first[: found.start()].rstrip() if found else first


def _chain(record: logging.LogRecord) -> Sequence[BaseException]:
    """Return the record's exception and its causes, nearest first."""
    found: list[BaseException] = []
    waiting = deque([record.exc_info[1]] if record.exc_info else [])
    while waiting and len(found) < MAX_ERRORS:
        error = waiting.popleft()
        if error is not None and not any(error is known for known in found):
            found.append(error)
            waiting.extend(_behind(error))
    return found


def _behind(error: BaseException) -> Iterator[BaseException | None]:
    yield error.__cause__
    if not error.__suppress_context__:
        yield error.__context__
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions


def _type(error: BaseException) -> str:
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  any class may raise anything
        return "(it cannot say)"


def _place(code: CodeType, line: int) -> str:
    place = clean(f"{code.co_filename}:{line}:{code.co_name}", 4 * MAX_NAME_CHARS)
    return place[-MAX_NAME_CHARS:]


def _text_of(error: Failure) -> Iterator[str]:
    yield f"    {error.type}" if error.said is None else f"    {error.type}: {error.said}"
    for place in error.where:
        yield f"      {place}"


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replacement for warnings.showwarning."""
    warned = logging.getLogger("py.warnings")
    warned.warning("%s at %s:%d", category.__name__, filename, lineno)
    warned.debug("%s", message)


def _unraisable(ignored: "sys.UnraisableHookArgs") -> None:
    where = getattr(ignored.object, "__qualname__", type(ignored.object).__name__)
    log.error("an exception in %s had nowhere to go", where, exc_info=ignored.exc_value)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("the gateway ends by an error", exc_info=error)


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is SystemExit:
        return  # a normal way for a thread to end itself
    name = ended.thread.name if ended.thread is not None else "?"
    log.error("the thread %s ended by an error", name, exc_info=ended.exc_value)
