"""Reads `NAME=value` lines of a file of variables."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from gateway import ConfigError, Variable

MAX_BYTES = 64 * 1024

ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(\w+)\s*[=:]")
DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')
SINGLE = re.compile(r"'([^']*)'")
COMMENT = re.compile(r"(?:^|\s)#")


def read_dotenv(file: Path, wanted: Collection[str]) -> dict[str, Variable]:
    """Return the variables in `wanted` that `file` sets, by name; none if there is no file.

    The last line of a name counts. Lines of another form are passed over. Raises ConfigError if the
    file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    return {name: found for name, found in _lines(file, text) if name in wanted}


def _lines(file: Path, text: str) -> Iterator[tuple[str, Variable]]:
    for number, line in enumerate(text.split("\n"), 1):
        match = ASSIGNMENT.match(line)
        if match is not None:
            value = _value(line[match.end() :].strip())
            yield match[1], Variable(f"{file}:{number}: {match[1]}", value)


def _value(text: str) -> str:
    """Return what the text after `=` stands for: quoted, or up to a comment."""
    if (double := DOUBLE.match(text)) is not None:
        return re.sub(r"\\(.)", r"\1", double[1])
    if (single := SINGLE.match(text)) is not None:
        return single[1]
    return COMMENT.split(text, maxsplit=1)[0].rstrip()
