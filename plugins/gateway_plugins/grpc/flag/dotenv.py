"""Reads `NAME=value` lines of a file of variables."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from gateway import ConfigError, Variable

MAX_BYTES = 64 * 1024

LINE = re.compile(
    r"""\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*[=:]\s*
    (?: "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>[^']*)' | (?P<plain>.*?) )
    \s*(?:(?<!\S)\#.*)?""",
    re.VERBOSE,
)


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
        match = LINE.fullmatch(line.rstrip())
        if match is not None:
            name = match["name"]
            yield name, Variable(f"{file}:{number}: {name}", _value(match))


def _value(match: re.Match[str]) -> str:
    if match["double"] is not None:
        return re.sub(r"\\(.)", r"\1", match["double"])
    return match["single"] if match["single"] is not None else match["plain"]
