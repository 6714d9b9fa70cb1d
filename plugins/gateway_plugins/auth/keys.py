"""The key file: its format, and the lookup of a token's principal.

    {"keys": [{"id": "alice", "token_sha256": "9f86d081...", "scopes": ["realtime", "sessions"]}]}

Each key has an `id` and one of `token`, `token_sha256` (the token's SHA-256 in hexadecimal), and
`certificate`, a name in the certificate of a caller that needs no token.
Optional fields: `scopes` (`realtime` alone if left out), `expires` (ISO 8601, UTC if it has no
offset, or Unix seconds), `models` and `workers` (any if left out), `labels`, `revoked`. Keys may
share an id, so that one can take over from another; each token may appear only once, and each
name of a certificate.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b, sha256
from hmac import compare_digest
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway import ConfigError, Principal, json_mistake
from gateway_plugins.auth.times import to_unix
from gateway_plugins.auth.tokens import digest_of, digest_of_name

Fault = Literal["expired", "revoked"]

Text = Annotated[str, Meta(min_length=1, max_length=200)]
"""Printable characters only: logs and metrics contain the text."""

DEFAULT_SCOPES = ("realtime",)

_TOKEN = re.compile(r"[!-~]{1,4096}")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One key as written in the file."""

    id: Text
    token: str | None = None
    token_sha256: str | None = None
    certificate: Text | None = None
    scopes: tuple[Text, ...] | None = None
    expires: str | float | None = None
    models: tuple[Text, ...] | None = None
    workers: tuple[Text, ...] | None = None
    labels: dict[Text, Text] = {}
    revoked: bool = False

    def __repr__(self) -> str:
        return f"Entry({self.id!r})"  # never the token

    @property
    def until(self) -> float | None:
        """Unix seconds of the expiry, None if none. Raises ValueError with what was expected."""
        if self.expires is None:
            return None
        try:
            return to_unix(self.expires)
        except ValueError as error:
            raise ValueError(f"expires: {error}") from None

    @property
    def digest(self) -> bytes:
        """Digest of the token or the name. Raises ValueError with what was expected."""
        if [self.token, self.token_sha256, self.certificate].count(None) != 2:
            raise ValueError("expected one of `token`, `token_sha256` and `certificate`")
        if self.certificate is not None:
            return digest_of_name(self.certificate)
        if self.token is not None:
            if not _TOKEN.fullmatch(self.token):
                raise ValueError("token: expected printable ASCII without spaces, 4096 at most")
            return digest_of(self.token.encode())
        return _from_hex(self.token_sha256 or "")


def _from_hex(text: str) -> bytes:
    try:
        found = bytes.fromhex(text) if len(text) == 64 else b""
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ValueError("token_sha256: expected 64 hexadecimal digits")
    return found


class Key(msgspec.Struct, frozen=True, gc=False):
    """Key of a token, or of the name `certificate`.

    `until` is the expiry in Unix seconds; None if the key does not expire.
    """

    digest: bytes
    principal: Principal
    until: float | None = None
    revoked: bool = False
    certificate: str | None = None

    @property
    def entry(self) -> Entry:
        """The key as a file can have it, with the digest in place of the token."""
        who = self.principal
        return Entry(
            who.id,
            token_sha256=None if self.certificate else self.digest.hex(),
            certificate=self.certificate,
            scopes=tuple(who.scopes),
            expires=self.until,
            models=None if who.models is None else tuple(who.models),
            workers=None if who.workers is None else tuple(who.workers),
            labels=dict(who.labels),
            revoked=self.revoked,
        )

    def fault(self, now: float) -> Fault | None:
        """Return why the key is not valid at `now` (Unix seconds); None if it is valid."""
        if self.revoked:
            return "revoked"
        return "expired" if self.until is not None and now >= self.until else None


class Keys:
    """The keys in a file's bytes, by the digests of their tokens.

    Keys whose text is the same as in `before` are reused, as most of a large file does not change.
    Raises ConfigError, which names the place of a mistake and never a token.
    """

    def __init__(self, data: bytes, before: "Keys | None" = None) -> None:
        self.scopes: set[str] = set()
        self._by_digest: dict[bytes, Key] = {}
        self._by_text: dict[bytes, Key] = {}
        known = {} if before is None else before._by_text
        sets = _Sets()
        for place, raw in enumerate(_split(data)):
            text = blake2b(raw, digest_size=16).digest()
            try:
                self._add(text, known.get(text) or _key(_read_entry(raw), sets))
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"keys[{place}]: {_words(error, raw, Entry)}") from None

    def _add(self, text: bytes, key: Key) -> None:
        if key.digest in self._by_digest:
            what = "token" if key.certificate is None else "certificate"
            raise ValueError(f"its {what} stands in an entry above; write it once")
        self._by_digest[key.digest] = self._by_text[text] = key
        self.scopes |= key.principal.scopes

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, token: bytes) -> Key | None:
        """Return the key with this token, valid or not; None if there is none.

        The lookup takes the same time for every unknown token.
        """
        digest = sha256(token).digest()
        try:
            key = self._by_digest[digest]
        except KeyError:
            return None
        return key if compare_digest(key.digest, digest) else None

    def of_certificate(self, names: Iterable[str]) -> Key | None:
        """Return the key of the first of the names that has one, valid or not."""
        found = (self._by_digest.get(digest_of_name(name)) for name in names)
        return next(filter(None, found), None)

    def encode(self) -> bytes:
        """Return a key file with these keys, in which each token is hashed."""
        entries = [key.entry for key in list(self._by_digest.values())]
        return msgspec.json.encode({"keys": entries})


class _Sets:
    """Shares one set among all keys with the same names."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], frozenset[str]] = {}

    def of(self, names: tuple[str, ...]) -> frozenset[str]:
        return self._made.setdefault(names, frozenset(names))


def _key(entry: Entry, sets: _Sets) -> Key:
    """Build the key of an entry. Raises ValueError with what was expected."""
    for problem in _unprintable(entry):
        raise ValueError(problem)
    principal = Principal(
        id=entry.id,
        scopes=sets.of(DEFAULT_SCOPES if entry.scopes is None else entry.scopes),
        models=None if entry.models is None else sets.of(entry.models),
        workers=None if entry.workers is None else sets.of(entry.workers),
        labels=entry.labels,
    )
    return Key(entry.digest, principal, entry.until, entry.revoked, entry.certificate)


def problem_of(entry: Entry) -> str | None:
    """Return what a file could not have of the entry, without any value; None: nothing."""
    raw = msgspec.json.encode(entry)
    try:
        _key(_read_entry(raw), _Sets())
    except (ValueError, RecursionError) as error:
        return _words(error, raw, Entry)
    return None


def _unprintable(entry: Entry) -> Iterator[str]:
    for name, texts in (
        ("id", (entry.id,)),
        ("certificate", (entry.certificate or "",)),
        ("scopes", entry.scopes or ()),
        ("models", entry.models or ()),
        ("workers", entry.workers or ()),
        ("labels", (*entry.labels, *entry.labels.values())),
    ):
        if not "".join(texts).isprintable():
            yield f"{name}: expected printable characters"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    # Keys are decoded one by one, so that other threads can run between them.
    keys: list[msgspec.Raw]


_read_file = msgspec.json.Decoder(_File).decode
_read_entry = msgspec.json.Decoder(Entry).decode


def parse(data: bytes) -> list[Entry]:
    """Return the entries in a file's bytes. Raises ConfigError as Keys does."""
    Keys(data)
    return [_read_entry(raw) for raw in _split(data)]


def _split(data: bytes) -> list[msgspec.Raw]:
    """Return the undecoded entries. Raises ConfigError if `data` is not a key file."""
    text = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return _read_file(text).keys
    except (ValueError, RecursionError) as error:
        raise ConfigError(_words(error, text, _File)) from None


def _words(error: Exception, data: bytes | msgspec.Raw, wanted: type) -> str:
    """Return the mistake in `data` without any value: a name may be a misplaced token."""
    if isinstance(error, UnicodeDecodeError):
        return "expected text in UTF-8"
    if isinstance(error, msgspec.DecodeError | RecursionError):
        return json_mistake(bytes(data), wanted)
    return str(error)  # of ours
