"""Changes of the file of keys: under a lock, and as a whole or not at all."""

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
from gateway_plugins.auth.reading import MOST_BYTES, read
from gateway_plugins.auth.times import written
from gateway_plugins.auth.tokens import digest_of

Entries = Sequence[Entry]
Change = Callable[[Entries], Entries]


def entries_in(path: Path) -> list[Entry]:
    """Raises ConfigError where there is no such file, or it has what is not understood."""
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
    """Put what `change` makes of the entries in their place; `create`: there need not be a file.

    Whoever edits at the same time does it before or after. Raises ConfigError, and then the file is
    as it was.
    """
    path = path.resolve()
    try:
        with _locked(path.parent):
            before = [] if create and not path.exists() else entries_in(path)
            _put(path, _encoded(path, change(before)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def _encoded(path: Path, entries: Entries) -> bytes:
    """Raises ConfigError for what could not be read again."""
    data = msgspec.json.format(msgspec.json.encode({"keys": entries}), indent=1) + b"\n"
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: would have more than {MOST_BYTES} bytes")
    Keys(data)
    return data


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder is locked, as the file is another one after each change."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
        os.fsync(held)
    finally:
        os.close(held)


def _put(path: Path, data: bytes) -> None:
    """The file is for its owner alone (0600), who stays the same."""
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
    """A gateway that runs as another user than who edits has to read the file still."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        if found.st_uid != os.geteuid():
            os.fchown(descriptor, found.st_uid, found.st_gid)


def added(entries: Entries, entry: Entry) -> Entries:
    """Raises ConfigError where there is such an id."""
    if _of(entries, entry.id):
        raise ConfigError(
            f"there is a key with the id {entry.id!r}; rotate that, or take another id"
        )
    return [*entries, entry]


def rotated(
    entries: Entries, id_: str, token: str, *, now: float, grace: float, expires: str | None
) -> Entries:
    """With `token` in place of what `id_` had, which is valid for `grace` more seconds.

    The new key may do what the latest before it may, until then or until `expires`. Raises
    ConfigError where there is none, or it is revoked, or would not be valid.
    """
    latest = _known(entries, id_)[-1]
    if latest.revoked:
        raise ConfigError(f"the key {id_!r} is revoked, and stays so; take another id")
    new = replace(latest, token=None, token_sha256=hashed(token), expires=expires or latest.expires)
    if new.until is not None and new.until <= now:
        raise ConfigError(f"the key {id_!r} has expired; say how long with --expires")
    old = [_ending(entry, now + grace) for entry in entries if entry.id == id_]
    kept = [entry for entry in old if entry.until is None or entry.until > now]
    return [*(entry for entry in entries if entry.id != id_), *kept, new]


def _ending(entry: Entry, latest: float) -> Entry:
    """Valid until `latest` at most."""
    ends = entry.until is not None and entry.until <= latest
    return entry if ends else replace(entry, expires=written(latest))


def revoked(entries: Entries, id_: str) -> Entries:
    """All of `id_`. Raises ConfigError where there is none."""
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
