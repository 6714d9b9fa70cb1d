"""Changes the key file: under a lock, and either completely or not at all."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gateway import ConfigError
from gateway_plugins.auth.keys import Entry, Keys, parse
from gateway_plugins.auth.reading import MAX_BYTES, read
from gateway_plugins.auth.times import to_iso
from gateway_plugins.auth.tokens import digest_of

Entries = Sequence[Entry]
Change = Callable[[Entries], Entries]


def entries_in(path: Path) -> list[Entry]:
    """Return the entries. Raises ConfigError if the file is missing or cannot be parsed."""
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such file; name one with --file or --config, or make a key"
        )
    data = read(path).data
    try:
        return parse(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def edit(path: Path, change: Change, *, create: bool = False) -> None:
    """Replace the entries with what `change` returns; `create`: the file may be missing.

    Concurrent edits run one after another. Raises ConfigError, and leaves the file as it was, if
    the edit fails.
    """
    path = path.resolve()
    try:
        with _locked(path.parent):
            before = [] if create and not path.exists() else entries_in(path)
            _put(path, _encoded(path, change(before)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def put_new(path: Path, entries: Entries, *, force: bool) -> None:
    """Write a file with these entries; `force`: in place of one that exists.

    Raises ConfigError, and leaves everything as it was, if the file exists or cannot be written.
    """
    path = path.resolve()
    try:
        with _locked(path.parent):
            if path.exists() and not force:
                raise ConfigError(f"{path}: there is such a file; name another, or give --force")
            _put(path, _encoded(path, entries))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def _encoded(path: Path, entries: Entries) -> bytes:
    """Return the file's bytes. Raises ConfigError if the result could not be read again."""
    data = msgspec.json.format(msgspec.json.encode({"keys": entries}), indent=1) + b"\n"
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: would have more than {MAX_BYTES} bytes")
    Keys(data)
    return data


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder: the file itself is replaced by each change."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
        os.fsync(held)
    finally:
        os.close(held)


def _put(path: Path, data: bytes) -> None:
    """Replace the file. Its mode is 0600, and its owner stays the same."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            _give_to_owner(stream.fileno(), path)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink()
        raise


def _give_to_owner(descriptor: int, path: Path) -> None:
    """Keep the owner: a gateway that runs as another user must still read the file."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        if found.st_uid != os.geteuid():
            os.fchown(descriptor, found.st_uid, found.st_gid)


def added(entries: Entries, entry: Entry) -> Entries:
    """Add an entry. Raises ConfigError if its id exists."""
    if _of(entries, entry.id):
        raise ConfigError(
            f"there is a key with the id {entry.id!r}; rotate that, or take another id"
        )
    return [*entries, entry]


def rotated(
    entries: Entries, id_: str, token: str, *, now: float, grace: float, expires: str | None
) -> Entries:
    """Add `token` as the new key of `id_`; the old keys stay valid for `grace` more seconds.

    The new key has the rights of the latest old key, and expires at the same time or at `expires`.
    Raises ConfigError if there is no such key, if it is revoked, or if the new key would have
    expired.
    """
    latest = _known(entries, id_)[-1]
    if latest.revoked:
        raise ConfigError(f"the key {id_!r} is revoked, and stays so; take another id")
    secret = {"token": None, "token_sha256": hashed(token), "certificate": None}
    new = replace(latest, **secret, expires=expires or latest.expires)
    if new.until is not None and new.until <= now:
        raise ConfigError(f"the key {id_!r} has expired; say how long with --expires")
    old = [_ending(entry, now + grace) for entry in entries if entry.id == id_]
    kept = [entry for entry in old if entry.until is None or entry.until > now]
    return [*(entry for entry in entries if entry.id != id_), *kept, new]


def _ending(entry: Entry, latest: float) -> Entry:
    """Return the entry with an expiry of `latest` (Unix seconds) at most."""
    ends = entry.until is not None and entry.until <= latest
    return entry if ends else replace(entry, expires=to_iso(latest))


def revoked(entries: Entries, id_: str) -> Entries:
    """Revoke all keys of `id_`. Raises ConfigError if there is none."""
    _known(entries, id_)
    return [replace(one, revoked=True) if one.id == id_ else one for one in entries]


def hashed(token: str) -> str:
    return digest_of(token.encode()).hex()


def _known(entries: Entries, id_: str) -> Entries:
    found = _of(entries, id_)
    if not found:
        raise ConfigError(f"there is no key with the id {id_!r}; `gateway keys list` has them")
    return found


def _of(entries: Entries, id_: str) -> Entries:
    return [entry for entry in entries if entry.id == id_]
