"""Translates SQLite's errors, and classifies them: is the file at fault, locked, or damaged."""

import sqlite3

from gateway.errors import (
    ConstraintViolated,
    InvalidStatement,
    StorageError,
    StorageUnavailable,
)

_OF_THE_FILE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


# Each is followed by SQLite's own message, whose wording changes between versions.
_TEXTS = {
    sqlite3.SQLITE_BUSY: "the database file is locked",
    sqlite3.SQLITE_READONLY: "the database file is read-only",
    sqlite3.SQLITE_IOERR: "the disk does not work",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_FULL: "there is no room for the database",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_NOTADB: "the database file is damaged",
}


class FileGone(StorageUnavailable):
    """The open file is no longer the one at its path: it was deleted or replaced."""


def storage_error(error: sqlite3.Error) -> StorageError:
    """Return the gateway's error for one of SQLite, which has to become its cause."""
    if _code(error) in _OF_THE_FILE:
        return StorageUnavailable(str(error))
    if isinstance(error, sqlite3.IntegrityError):
        return ConstraintViolated(str(error))
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return InvalidStatement(str(error))
    return StorageError(str(error))


def is_file_fault(error: BaseException) -> bool:
    """Whether the file is at fault (full, locked, read-only, damaged, gone), not a statement."""
    return isinstance(error, FileGone) or has_code(error, *_OF_THE_FILE)


def is_busy(error: BaseException) -> bool:
    """Whether the only fault is that another connection holds the lock."""
    return has_code(error, sqlite3.SQLITE_BUSY)


def is_damage(error: BaseException) -> bool:
    """Whether the file is not a database, or a damaged one."""
    return has_code(error, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def fault_text(error: BaseException) -> str:
    """Describe the error for operators."""
    text = _TEXTS.get(_code(error.__cause__) or sqlite3.SQLITE_OK)
    return f"{text}: {error}" if text else str(error)


def has_code(error: BaseException, *codes: int) -> bool:
    """Whether the cause of a StorageError is an error of SQLite with one of these codes."""
    return isinstance(error, StorageError) and _code(error.__cause__) in codes


def _code(error: BaseException | None) -> int | None:
    """SQLite's primary result code, or None; Python reports the extended one."""
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    return None if code is None else code & 0xFF
