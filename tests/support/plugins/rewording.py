"""`pytest -p support.plugins.rewording`: the tests, while libraries say everything in other words.

A test that fails with it and passes without depends on words that may change with any release; or
the gateway does, which is worse. See `make test-reworded`.
"""

import sqlite3
import tomllib
from typing import Any

import httptools
import msgspec
import yaml

SAID = "(said in other words)"
KINDS = (
    msgspec.DecodeError,
    msgspec.ValidationError,
    httptools.HttpParserError,
    tomllib.TOMLDecodeError,
    sqlite3.DatabaseError,
    sqlite3.OperationalError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
)


def _said(error: Exception) -> str:
    """Of what the library itself has raised: SQLite's have a code then."""
    ours = type(error) not in KINDS or (
        isinstance(error, sqlite3.Error) and not hasattr(error, "sqlite_errorcode")
    )
    return Exception.__str__(error) if ours else SAID


for kind in KINDS:
    kind.__str__ = _said  # type: ignore[method-assign, assignment]


_marked = yaml.MarkedYAMLError.__init__


def _remark(self: yaml.MarkedYAMLError, *arguments: Any) -> None:
    _marked(self, *arguments)
    self.context = self.problem = SAID


yaml.MarkedYAMLError.__init__ = _remark  # type: ignore[method-assign, assignment]
