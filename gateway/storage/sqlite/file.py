"""Opens the database file for the writer and for readers, and moves a damaged file aside."""

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from gateway.errors import ConfigError, StorageError
from gateway.storage.database import Migrations
from gateway.storage.sqlite.connection import Connection, Mode
from gateway.storage.sqlite.faults import is_damage
from gateway.storage.sqlite.file_in_use import FileInUse
from gateway.storage.sqlite.migrate import migrate
from gateway.storage.sqlite.write_lock import WriteLock

log = logging.getLogger("gateway.storage")

Durability = Literal["process", "power", "none"]

CHECK_TIMEOUT = 2.0
"""Seconds that the check of a file at start-up may take; a larger file is checked in part."""

FULL_CHECK_TIMEOUT = 60.0
"""The same, for a file that was found damaged while in use."""

_FOLDER_LOCK_TIMEOUT = 10.0
"""Seconds to wait for other processes that create or move a file in the same folder."""

_SUFFIXES = ("", "-wal", "-shm")


def prepare_file(path: Path) -> None:
    """Create the file if it is missing, and move a damaged one aside.

    A new file has the mode 0600, as it will hold callers' prompts. Raises ConfigError if `path` is
    a folder or its folder is missing.
    """
    if path.is_dir():
        raise ConfigError(f"storage.path {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"storage.path {path}: there is no folder {path.parent}; create it")
    try:
        _create(path)
        if _damage(path) is not None:
            _replace(path)
    except OSError as error:  # opening the file will fail and report this again
        log.error("the database %s cannot be begun: %s", path, error)


def _create(path: Path) -> None:
    """Create an empty file if there is none; SQLite creates -wal and -shm with the same mode."""
    if path.exists():
        return
    with _folder_lock(path.parent):
        if path.exists():
            return
        if path.with_name(path.name + "-wal").exists():
            log.warning("%s-wal was left without its database; moved to %s", path, _aside(path))
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600))


def _replace(path: Path) -> None:
    """Move the damaged file aside and create a new one, unless another process has done so."""
    with _folder_lock(path.parent):
        damage = _damage(path)
        if damage is None:
            return
        aside = _aside(path)
    log.error(
        "the database %s is damaged (%s); it was moved to %s and a new one begun; "
        "`sqlite3 %s .recover` may get its content back",
        path,
        damage,
        aside,
        aside,
    )
    _create(path)


def _damage(path: Path) -> str | None:
    """Describe the damage of the file; None if none was found or it cannot be checked.

    If the check does not end in time, a file marked as damaged counts as damaged, others do not.
    """
    marked = _marker(path).exists()
    try:
        db = connect_read_only(path)
    except StorageError:
        return None
    ends = time.monotonic() + (FULL_CHECK_TIMEOUT if marked else CHECK_TIMEOUT)
    try:
        with _interrupted(db, ends):
            [(found,)] = db.select(f"PRAGMA {'integrity' if marked else 'quick'}_check(1)")
    except StorageError as error:
        if is_damage(error):
            return str(error)
        return "it was when it was last used" if marked and time.monotonic() > ends else None
    finally:
        db.close()
    if found != "ok":
        return str(found).splitlines()[-1]
    _marker(path).unlink(missing_ok=True)
    return None


@contextlib.contextmanager
def _interrupted(db: Connection, ends: float) -> Iterator[None]:
    """Interrupt a statement with an error at `ends`, in time.monotonic() seconds.

    SQLite calls the progress handler between the steps of a statement. A check may be a single long
    step, so a timer interrupts it as well.
    """
    db.raw.set_progress_handler(lambda: int(time.monotonic() > ends), 10_000)
    timer = threading.Timer(max(ends - time.monotonic(), 0), db.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def mark_damaged(path: Path) -> None:
    """Mark the file as damaged, so that the next start checks all of it."""
    try:
        _marker(path).touch(0o600)
    except OSError as error:
        log.info("%s cannot be marked as damaged: %s", path, error)


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".is-damaged")


def _aside(path: Path) -> Path:
    """Rename the file, its -wal and its -shm to an unused name; return it. Raises OSError."""
    stem = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    aside = path.with_name(stem)
    number = 1
    while any(aside.with_name(aside.name + suffix).exists() for suffix in _SUFFIXES):
        number += 1
        aside = path.with_name(f"{stem}.{number}")
    for suffix in _SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    _marker(path).unlink(missing_ok=True)
    return aside


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that only one process at a time creates or moves files.

    Proceeds without the lock after `_FOLDER_LOCK_TIMEOUT` seconds, in case another process hangs.
    """
    fd = os.open(folder, os.O_RDONLY)
    ends = time.monotonic() + _FOLDER_LOCK_TIMEOUT
    try:
        while not _try_lock(fd) and time.monotonic() < ends:
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def open_for_writing(
    path: Path,
    durability: Durability,
    migrations: Sequence[Migrations],
    lock: WriteLock | None = None,
    in_use: FileInUse | None = None,
) -> Connection:
    """Open the writer's connection and migrate the tables.

    Transactions hold `lock`, which several processes may share. `in_use` remembers the file. In WAL
    mode, commits with synchronous NORMAL survive the end of the process, those with FULL (an fsync
    for each commit) also a power cut: https://sqlite.org/wal.html
    Raises StorageError.
    """
    in_use = in_use or FileInUse(path)
    with contextlib.suppress(OSError):  # SQLite's error will be clearer
        in_use.put_log_aside()
        _create(path)
    with in_use.forgotten_if_closed():
        db = Connection(path, "mode=rw")
        db.lock = lock or db.lock
        _prepare(db, durability, migrations, in_use)
    return db


def _prepare(
    db: Connection, durability: Durability, migrations: Sequence[Migrations], in_use: FileInUse
) -> None:
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute("BEGIN IMMEDIATE")  # several processes may start at once
        migrate(db, migrations)
        db.execute("COMMIT")
        in_use.note()
        db.check()
    except BaseException:
        db.close()
        raise


def connect_read_only(path: Path, mode: Mode = "mode=ro") -> Connection:
    """Open a read-only connection. Raises StorageError."""
    db = Connection(path, mode)
    db.execute("PRAGMA query_only = ON")
    return db
