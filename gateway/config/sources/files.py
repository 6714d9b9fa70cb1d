"""Reads a configuration file into a tree that keeps the place of each value.

The cost of a file is bounded by limits on its size, its nesting depth, and the number of values
after its aliases are expanded.
"""

import re
import tomllib
from pathlib import Path

from gateway.config.messages import describe_value
from gateway.config.node import MAX_DEPTH, TOO_DEEP, Node, depth_of
from gateway.config.sources.yaml_tree import yaml_tree
from gateway.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024
# tomllib takes time quadratic in the number of dots in a key; a key is on one line.
MAX_DOTS = 250
# What is open at its end goes on to the end of the line, or of the text.
_TOML_TOKEN = re.compile(
    r"""
    \"{3} (?:[^\\]|\\.)*? (?:\"{3,5}|\Z) | '{3} .*? (?:'{3,5}|\Z)
    | \" (?:[^"\\\n]|\\.)* \"? | ' [^'\n]* '? | \# [^\n]* | [\[\]{}]
    """,
    re.DOTALL | re.VERBOSE,
)
_QUOTED = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*')""")


def read_file(file: Path, problems: list[str]) -> Node:
    """Read the mapping in a YAML or TOML file; the suffix selects the format.

    An empty file is an empty mapping. Adds mistakes in single places to `problems`; raises
    ConfigError if the file as a whole is unusable.
    """
    readers = {".yaml": yaml_tree, ".yml": yaml_tree, ".toml": _toml_tree}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ConfigError(f"{file}: expected the name of a .yaml, .yml or .toml file")
    root = reader(_text(file), str(file), problems)
    if root.value is None:
        return Node({}, root.place)
    if not isinstance(root.value, dict):
        got = describe_value(Node(root.value, root.place, secret=True))
        raise ConfigError(f"{root.place}: expected fields such as `port: 9090`, got {got}")
    return root


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: expected text in UTF-8") from None


def _toml_tree(text: str, name: str, _: list[str]) -> Node:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS and _QUOTED.sub("", line).count(".") > MAX_DOTS:
            raise ConfigError(f"{name}:{number}: more than {MAX_DOTS} dots; break the line")
    tokens = (found[0] for found in _TOML_TOKEN.finditer(text))
    if depth_of(token for token in tokens if token in "[]{}") > MAX_DEPTH:
        raise ConfigError(f"{name}: {TOO_DEEP}")
    try:
        tree = tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: {TOO_DEEP}") from None
    try:
        return Node.of(tree, name)
    except ValueError as error:  # by its dots
        raise ConfigError(f"{name}: {error}") from None
