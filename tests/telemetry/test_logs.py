"""What is written of a record: one line, bounded, and of an exception never its words."""

import io
import json
import logging
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.cli import main
from gateway.config import Config
from gateway.errors import InternalError
from gateway.telemetry.logs import MAX_LINE_BYTES, Formatter, Handler, Logs, TextFormatter, Written

SECRET = "the caller's words"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(message: object, *arguments: object, name: str = "gateway", **more: Any) -> Any:
    made = logging.LogRecord(name, logging.WARNING, __file__, 7, message, arguments, None)
    made.__dict__.update(more)
    return made


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The same, with a traceback."""
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001  it is what the test asks for
        return caught


def failing(error: BaseException, message: str = "it broke") -> Any:
    return record(message, exc_info=(type(error), error, error.__traceback__))


def as_json(of: Any, *, debug: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Formatter(debug=debug).format(of))
    return found


def as_text(of: Any, *, debug: bool = False) -> str:
    return TextFormatter(debug=debug).format(of)


def test_json_formatter_writes_time_level_logger_and_message() -> None:
    line = Formatter().format(record("worker %s is down", "w1", created=1_700_000_000.1234))
    assert line == (
        '{"time":"2023-11-14T22:13:20.123Z","level":"warning","logger":"gateway",'
        '"message":"worker w1 is down"}'
    )


def test_formatters_add_the_call_id_of_a_record() -> None:
    assert as_json(record("it broke", call_id="a1"))["call_id"] == "a1"
    assert "call_id" not in as_json(record("it broke"))
    assert as_text(record("it broke", call_id="a1")).endswith(
        " WARNING gateway: it broke call_id=a1"
    )


@pytest.mark.parametrize("write", [as_json, as_text])
def test_formatters_write_an_exception_s_type_and_places_but_no_message(write: Any) -> None:
    error = raised(KeyError(SECRET), raised(UnicodeEncodeError("ascii", SECRET, 0, 1, SECRET)))
    written = str(write(failing(error)))
    assert SECRET not in written
    assert "test_logs.py:" in written
    assert written.index("KeyError") < written.index("UnicodeEncodeError"), "and what is behind it"


@pytest.mark.parametrize("write", [as_json, as_text])
def test_formatters_write_exception_messages_in_debug_mode(write: Any) -> None:
    error = raised(ValueError("one"), raised(ExceptionGroup("two", [ValueError("three")])))
    written = str(write(failing(error), debug=True))
    assert [word in written for word in ("one", "two", "three")] == [True] * 3


def test_json_formatter_keeps_the_places_nearest_to_the_failure() -> None:
    def deep(left: int) -> None:
        if not left:
            raise ValueError(SECRET)
        deep(left - 1)

    with pytest.raises(ValueError, match=SECRET) as caught:
        deep(50)
    [error] = as_json(failing(caught.value))["errors"]
    assert error["type"] == "ValueError"
    assert len(error["where"]) == 12
    assert error["where"][-1].endswith(":deep")


def test_json_formatter_writes_each_exception_of_a_cyclic_cause_once() -> None:
    one, other = ValueError(SECRET), KeyError(SECRET)
    one.__cause__, other.__cause__ = other, one
    assert [error["type"] for error in as_json(failing(one))["errors"]] == [
        "ValueError",
        "KeyError",
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(SECRET), "ValueError"),
        (ConnectionError(SECRET), "ConnectionError"),
        (json.JSONDecodeError(SECRET, SECRET, 0), "json.decoder.JSONDecodeError"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory: x"),
        (InternalError("the gateway failed"), "the gateway failed"),
    ],
)
def test_json_formatter_redacts_exceptions_among_the_arguments(error: Exception, said: str) -> None:
    assert as_json(record("broken: %s", error))["message"] == f"broken: {said}"
    assert as_json(record("broken: %(why)s", {"why": error}))["message"] == f"broken: {said}"
    assert as_json(record(error))["message"] == said


def test_json_formatter_names_the_place_of_a_malformed_record() -> None:
    message = as_json(record("%d", SECRET))["message"]
    assert message == f"a record cannot be written; it is made at {__file__}:7"
    assert as_json(record("%d", SECRET), debug=True)["message"] == message


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (
            f"Task exception was never retrieved\nfuture: <Task {SECRET}>",
            "Task exception was never",
        ),
        (f"Exception in callback f('{SECRET}') at x.py:1", "Exception in callback f"),
        (f"Exception in callback <bound method {SECRET}>", "Exception in callback"),
        ("socket.send() raised exception.", "socket.send() raised exception."),
    ],
)
def test_json_formatter_cuts_asyncio_messages_before_quoted_values(
    given: str, written: str
) -> None:
    message = as_json(record(given, name="asyncio"))["message"]
    assert message.startswith(written)
    assert SECRET not in message
    assert SECRET in as_json(record(given + SECRET, name="asyncio"), debug=True)["message"]


@given(st.text(), st.text() | st.none(), st.integers(1, 5_000), st.sampled_from([True, False]))
@example('"', None, 20_000, True)
@example("\x1b[31m\r\n2026-01-01 ERROR gateway: forged", "\u2028", 1, False)
@example("\U0010ffff\ud800", "\x9b", 9000, True)
def test_formatters_write_bounded_printable_lines_for_any_record(
    text: str, call_id: str | None, times: int, debug: bool
) -> None:
    error = raised(ValueError(text * times), raised(KeyError(text * times)))
    given = failing(error, text * times)
    given.name, given.call_id = text * times, call_id
    line = Formatter(debug=debug).format(given)
    assert len(line.encode()) <= MAX_LINE_BYTES
    assert line.isprintable()
    assert json.loads(line)["level"] == "warning"
    below = TextFormatter(debug=debug).format(given)
    assert len(below.encode()) <= MAX_LINE_BYTES
    assert all(one.isprintable() for one in below.split("\n"))
    assert all(one.startswith("    ") for one in below.split("\n")[1:])


@pytest.mark.parametrize(
    ("stream", "written", "text"),
    [
        (io.StringIO, "auto", False),
        (Terminal, "auto", True),
        (Terminal, "json", False),
        (io.StringIO, "text", True),
    ],
)
def test_log_handler_writes_text_to_a_terminal_and_json_elsewhere(
    stream: type[io.StringIO], written: Written, text: bool
) -> None:
    opened = stream()
    Handler(opened, written=written).emit(record("hello"))
    assert opened.getvalue().startswith("{") != text
    assert opened.getvalue().endswith("\n")


def test_log_handler_ignores_a_closed_stream(capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    handler = Handler(closed)
    closed.close()
    handler.handle(record(SECRET))
    assert capsys.readouterr() == ("", "")


def test_command_line_rejects_an_unknown_log_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plugins", "--log-format", "loud"])
    told = '--log-format: log_format: expected "auto", "text" or "json", got "loud"\n'
    assert capsys.readouterr().err == told


def test_reload_changes_the_log_level_and_format() -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before = root.level
    logs = Logs("info", "json", stream)
    try:
        logs.follow(Config(log_level="error", log_format="text"))
        assert root.level == logging.ERROR
        logs.handler.emit(record("hello"))
        assert stream.getvalue().endswith("WARNING gateway: hello\n")
    finally:
        root.setLevel(before)
