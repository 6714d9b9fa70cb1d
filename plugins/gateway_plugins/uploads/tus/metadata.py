"""`Upload-Metadata`: pairs of a key and a value in base64, as the protocol has them."""

import binascii
import re
from collections.abc import Mapping

import msgspec

from gateway import BadRequest
from gateway_plugins.uploads.errors import bad_header
from gateway_plugins.uploads.places import is_name

HEADER = "Upload-Metadata"

MAX_HEADER = 16 * 1024

_KEY = re.compile(r"[!-+\--~]+")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_NO = ("0", "false", "no")


class Wanted(msgspec.Struct, frozen=True):
    """What the metadata says of a model; `digest` is its SHA-256, None: it is not checked."""

    model: str
    digest: str | None
    overwrite: bool
    filename: str


def parse(header: str) -> Mapping[str, bytes]:
    """Return the values of a header by key; a missing value is empty. Raises BadRequest."""
    found: dict[str, bytes] = {}
    if len(header) > MAX_HEADER:
        raise bad_header(HEADER, f"it is longer than {MAX_HEADER} bytes")
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not _KEY.fullmatch(key):
            raise bad_header(HEADER, "a key is empty, or has other characters than ASCII's")
        if key in found:
            raise bad_header(HEADER, f"the key `{key[:100]}` is there twice")
        found[key] = _decoded(key, value.strip())
    return found


def _decoded(key: str, value: str) -> bytes:
    try:
        return binascii.a2b_base64(value.encode("ascii"), strict_mode=True) if value else b""
    except (ValueError, UnicodeEncodeError):
        raise bad_header(HEADER, f"the value of `{key[:100]}` is not base64") from None


def wanted(pairs: Mapping[str, bytes]) -> Wanted:
    """Return what the pairs say of the model. Raises BadRequest."""
    if "model_name" not in pairs:
        raise bad_header(HEADER, "`model_name` is missing: the name under which callers ask for it")
    model, digest = _text(pairs, "model_name"), _text(pairs, "sha256")
    if not is_name(model):
        raise _bad_name()
    if digest and not _DIGEST.fullmatch(digest):
        raise bad_header(HEADER, "`sha256` is to be 64 hexadecimal digits")
    overwrite = "overwrite" in pairs and _text(pairs, "overwrite").lower() not in _NO
    return Wanted(model, digest.lower() or None, overwrite, _text(pairs, "filename"))


def _text(pairs: Mapping[str, bytes], key: str) -> str:
    try:
        return pairs.get(key, b"").decode()
    except UnicodeDecodeError:
        raise bad_header(HEADER, f"the value of `{key}` is not UTF-8") from None


def _bad_name() -> BadRequest:
    return bad_header(
        HEADER,
        "`model_name` is to be NAME or ORGANISATION/NAME, of at most 96 letters, digits, `.`, `_`"
        " and `-` each, not beginning or ending with `.` or `-`, without `--` and `..`",
    )
