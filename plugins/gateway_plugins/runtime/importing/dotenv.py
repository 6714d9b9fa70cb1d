"""Reads a `.env` file as Docker Compose does, but for the environment: the file alone counts.

    # a comment
    export NAME=value # a comment
    QUOTED="a \\"b\\" # c and \\n a second line"
    LITERAL='$NAME stays as it is'
    JOINED=${NAME}/${MISSING:-default}

A reference is to a variable above it. Nothing is run, and no message contains a value.
"""

import re
from pathlib import Path

import msgspec

from gateway import ConfigError

MAX_BYTES = 1024 * 1024
MAX_PROBLEMS = 100

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_BLANK = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_BEGIN = re.compile(rf"[ \t]*(?:export[ \t]+)?({_NAME})[ \t]*[=:]")
_QUOTE = re.compile(
    r"""[ \t]*(?P<quote>['"])(?P<text>(?:(?!(?P=quote))[^\\]|\\.)*)(?P=quote)""", re.DOTALL
)
_OPEN = re.compile(r"""[ \t]*['"]""")
_COMMENT = re.compile(r"[ \t]#[^\n]*")
_REFERENCE = (
    rf"\$\$|\$\{{(?P<braced>{_NAME})(?::-(?P<default>[^${{}}\n]*))?\}}|\$(?P<bare>{_NAME})"
    r"|(?P<other>\$[{(])"
)
_IN_PLAIN = re.compile(_REFERENCE)
_IN_DOUBLE = re.compile(rf'\\(?P<escaped>[nrt\\"$])|{_REFERENCE}')
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Setting(msgspec.Struct, frozen=True):
    """The value of a variable, and the line that sets it, from 1.

    `instead_of`: an earlier line, which set the variable too.
    """

    value: str
    line: int
    instead_of: int | None = None

    def __repr__(self) -> str:
        return f"Setting(line={self.line})"  # the value may be a secret


Settings = dict[str, Setting]


def read_dotenv(path: Path) -> Settings:
    """Return what a file sets; of two lines that set a variable the later counts.

    Raises ConfigError, which names each bad line.
    """
    try:
        reader = Reader(_read(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(f"{path}: cannot be read: {reason or error}") from None
    if reader.problems:
        raise ConfigError(*(f"{path}:{one}" for one in reader.problems[:MAX_PROBLEMS]))
    return reader.settings


def _read(path: Path) -> str:
    """Return the text of a file. Raises OSError, and ValueError with what was expected."""
    if path.exists() and not path.is_file():  # opening a pipe would block
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    if b"\0" in data:
        raise ValueError("it has a NUL byte")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("expected text in UTF-8") from None
    return text.replace("\r\n", "\n")


class Reader:
    """Reads a text with LF at the ends of lines.

    `problems` are `LINE: what is wrong`, and nothing is set by these lines.
    """

    def __init__(self, text: str) -> None:
        self.settings: Settings = {}
        self.problems: list[str] = []
        self._text = text
        at, line = 0, 1
        while at < len(text):
            end = self._statement(at, line)
            line += text.count("\n", at, end)
            at = end

    def _statement(self, at: int, line: int) -> int:
        """Read what begins at `at`, on that line, and return its end."""
        if blank := _BLANK.match(self._text, at):
            return blank.end()
        try:
            begin = _BEGIN.match(self._text, at)
            if begin is None:
                raise ValueError("expected NAME=value")
            value, end = self._value(begin.end())
            earlier = self.settings.get(begin[1])
            self.settings[begin[1]] = Setting(value, line, earlier.line if earlier else None)
            return end
        except ValueError as error:
            name = f"{begin[1]}: " if begin else ""
            self.problems.append(f"{line}: {name}{error}")
            return self._end_of_line(at)

    def _value(self, at: int) -> tuple[str, int]:
        """Return the value that begins at `at`, and its end. Raises ValueError."""
        if quoted := _QUOTE.match(self._text, at):
            blank = _BLANK.match(self._text, quoted.end())
            if blank is None:
                raise ValueError("expected a comment or nothing after the closing quote")
            return self._unquoted(quoted), blank.end()
        if _OPEN.match(self._text, at):
            raise ValueError("the quote is not closed")
        end = self._end_of_line(at)
        plain = _COMMENT.sub("", self._text[at:end]).strip(" \t\r\n")
        return _IN_PLAIN.sub(self._referred, plain), end

    def _end_of_line(self, at: int) -> int:
        newline = self._text.find("\n", at)
        return len(self._text) if newline < 0 else newline + 1

    def _unquoted(self, quoted: re.Match[str]) -> str:
        if quoted["quote"] == "'":
            return quoted["text"].replace(r"\'", "'")
        return _IN_DOUBLE.sub(self._unescaped, quoted["text"])

    def _unescaped(self, match: re.Match[str]) -> str:
        if escaped := match["escaped"]:
            return _ESCAPES.get(escaped, escaped)
        return self._referred(match)

    def _referred(self, match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if match["other"]:
            raise ValueError(
                "expected ${NAME} or ${NAME:-default}, and no commands; a plain $ is written $$"
            )
        found = self.settings.get(match["braced"] or match["bare"])
        if found is not None and (found.value or match["default"] is None):
            return found.value
        if match["default"] is None:
            raise ValueError(
                "it refers to a variable that no line above sets; a plain $ is written $$"
            )
        return str(match["default"])
