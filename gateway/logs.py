"""What the gateway logs, as lines on standard error: JSON for programs, text for people.

No line holds what a caller or a worker said. An exception may quote it in its message, so of an
exception only its type and its places in the code are written, unless everything is to be seen
(level debug). The same goes for what asyncio, uvicorn and the interpreter itself report.
"""

import logging
import re
import sqlite3
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

LONGEST = 16 * 1024
"""Bytes of a line (as text: of all lines of a record)."""

SIZES = ((8192, 12), (1024, 4), (256, 1))
"""Characters of a text and places of an exception; the first pair with which a line fits holds."""

ERRORS = 4
"""Of an exception and what it came from, the nearest."""

NAME = 160
"""Characters of a name: of a logger, a call, an exception's type, a place."""

_REPR = re.compile(r"[<{'\"]|\((?!\))")
"""Where the repr of something begins."""


class Failure(msgspec.Struct, omit_defaults=True):
    """One exception: its type, and where it went through, outermost first, `file:line:function`."""

    type: str
    where: list[str] = []
    said: str | None = None


class Line(msgspec.Struct, omit_defaults=True):
    """What a JSON line holds. `errors`: the exception, then those that it came from."""

    time: str
    level: str
    logger: str
    message: str
    call_id: str | None = None
    process: int | None = None
    errors: list[Failure] = []


class Formatter(logging.Formatter):
    """Writes records, each within LONGEST bytes. With `debug` exceptions say their messages.

    `process` is the index of this one, where it is one of several.
    """

    def __init__(self, *, debug: bool = False, process: int | None = None) -> None:
        super().__init__()
        self._debug = debug
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        for most, places in SIZES:
            written = self.write(self._line(record, most, places), record)
            if len(written.encode()) <= LONGEST:
                break
        return written

    def write(self, line: Line, record: logging.LogRecord) -> str:
        """As JSON."""
        return msgspec.json.encode(line).decode()

    def _line(self, record: logging.LogRecord, most: int, places: int) -> Line:
        call_id = getattr(record, "call_id", None)
        created = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        return Line(
            time=created.isoformat(timespec="milliseconds") + "Z",
            level=record.levelname.lower(),
            logger=clean(record.name, NAME),
            message=clean(self._message(record), most),
            call_id=clean(call_id, NAME) if isinstance(call_id, str) else None,
            process=self._process,
            errors=[self._failure(one, most, places) for one in _chain(record)],
        )

    def _message(self, record: logging.LogRecord) -> str:
        """Raises nothing: a record whose arguments do not fit is told by its place."""
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
        return Failure(clean(_type(error), NAME), list(where), said)


class TextFormatter(Formatter):
    """A line for a record, with the call's id at its end; an exception in indented lines below."""

    def write(self, line: Line, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record)} {line.level.upper():<7} {line.logger}: {line.message}"
        if line.call_id is not None:
            head += f" call_id={line.call_id}"
        if line.process is not None:
            head += f" process={line.process}"
        return "\n".join([head, *(below for error in line.errors for below in _text_of(error))])


class Handler(logging.StreamHandler[TextIO]):
    """Writes to `stream`: text where it is a terminal, else JSON, or as `written` says."""

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
        """Nothing: logging's own way is to print the record, arguments and all."""


class Logs:
    """The log of a process that runs a gateway; `process` is its index, where there are several."""

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
        """From now on all that is said goes this way: the interpreter's words, too."""
        logging.getLogger().handlers[:] = [self.handler]
        warnings.showwarning = _warned
        sys.unraisablehook = _unraisable
        sys.excepthook = _uncaught
        threading.excepthook = _thread_ended

    def follow(self, config: "Config") -> None:
        """After a reload."""
        self._set(config.log_level, config.log_format)

    def _set(self, level: str, written: Written) -> None:
        logging.getLogger().setLevel(level.upper())
        self.handler.write_as(level, written)


def clean(text: str, most: int) -> str:
    """At most so many characters, each of which shows: no line end, no terminal's command."""
    text = text[: most + 1]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else _escaped(one) for one in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _message_of(record: logging.LogRecord) -> str:
    """The message, where an exception is named by what cannot quote anybody."""
    if isinstance(record.msg, BaseException):
        return str(_told(record.msg))
    message, arguments = str(record.msg), record.args
    if not arguments:
        return message
    if isinstance(arguments, Mapping):
        return message % {name: _told(value) for name, value in arguments.items()}
    return message % tuple(map(_told, arguments))


def _told(argument: object) -> object:
    """Errors of the gateway, of SQLite and of the system say what is written for people to read."""
    if not isinstance(argument, BaseException) or isinstance(
        argument, GatewayError | sqlite3.Error
    ):
        return argument
    if isinstance(argument, OSError) and argument.strerror:
        named = "" if argument.filename is None else f": {argument.filename}"
        return f"{argument.strerror}{named}"
    return _type(argument)


def _without_reprs(message: str) -> str:
    """asyncio writes below its first line, and at its end, what it was about, contents and all."""
    first = message.partition("\n")[0]
    found = _REPR.search(first)
    return first[: found.start()].rstrip() if found else first


def _chain(record: logging.LogRecord) -> Sequence[BaseException]:
    """The record's exception and those behind it, nearest first."""
    found: list[BaseException] = []
    waiting = deque([record.exc_info[1]] if record.exc_info else [])
    while waiting and len(found) < ERRORS:
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
    except Exception:  # noqa: BLE001  its class may be anybody's
        return "(it cannot say)"


def _place(code: CodeType, line: int) -> str:
    place = clean(f"{code.co_filename}:{line}:{code.co_name}", 4 * NAME)
    return place[-NAME:]


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
    """In place of warnings.showwarning."""
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
        return  # it is how a thread ends itself
    name = ended.thread.name if ended.thread is not None else "?"
    log.error("the thread %s ended by an error", name, exc_info=ended.exc_value)
