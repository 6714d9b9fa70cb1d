"""The headers of requests and answers."""

import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Protocol
from urllib.parse import urlsplit

from gateway_plugins.uploads.errors import bad_header
from gateway_plugins.uploads.store.folder import ID
from gateway_plugins.uploads.store.rows import PARTIAL, Upload

VERSION = "1.0.0"
EXTENSIONS = (
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,"
    "concatenation"
)
BYTES = "application/offset+octet-stream"

MAX_PARTS = 1_000
"""Parts of a final upload."""

EXPOSED = (
    "Location, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Expires, Upload-Concat, "
    "Upload-Defer-Length, Tus-Version, Tus-Resumable, Tus-Max-Size, Tus-Extension, "
    "Tus-Checksum-Algorithm, X-Upload-Status"
)
"""What pages of other sites may read."""

_FINAL = "final;"
_NUMBER = re.compile(r"[0-9]{1,18}")


class Digest(Protocol):
    """A checksum that is being computed."""

    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class Crc32:
    """CRC-32, most significant byte first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


ALGORITHMS: Mapping[str, Callable[[], Digest]] = {
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "crc32": Crc32,
}


class Expected:
    """The checksum that the body of a request is said to have."""

    def __init__(self, header: str) -> None:
        algorithm, _, value = header.partition(" ")
        if algorithm not in ALGORITHMS:
            raise bad_header("Upload-Checksum", f"the algorithm is none of {', '.join(ALGORITHMS)}")
        self.digest = ALGORITHMS[algorithm]()
        try:
            self._wanted = binascii.a2b_base64(value.strip().encode("ascii"), strict_mode=True)
        except (ValueError, UnicodeEncodeError):
            raise bad_header("Upload-Checksum", "the value is not base64") from None
        if len(self._wanted) != len(ALGORITHMS[algorithm]().digest()):
            raise bad_header("Upload-Checksum", f"the value has not the length of {algorithm}")

    def is_right(self) -> bool:
        return self.digest.digest() == self._wanted


def number(name: str, value: str | None) -> int | None:
    """Return the value of a header that is a number of bytes. Raises BadRequest."""
    if value is None:
        return None
    if not _NUMBER.fullmatch(value.strip()):
        raise bad_header(name, "it is to be a whole number, of 0 or more")
    return int(value)


def parts_of(concat: str) -> list[str]:
    """Return the ids of the parts of a final upload; none for other values of the header.

    Raises BadRequest.
    """
    if concat in ("", PARTIAL):
        return []
    if not concat.startswith(_FINAL):
        raise bad_header("Upload-Concat", "it is to be `partial`, or `final;` and URLs")
    ids = [_id_in(url) for url in concat.removeprefix(_FINAL).split()]
    if not 0 < len(ids) <= MAX_PARTS:
        raise bad_header("Upload-Concat", f"it is to name 1 to {MAX_PARTS} uploads")
    if len(set(ids)) < len(ids):
        raise bad_header("Upload-Concat", "it names an upload twice")
    return ids


def _id_in(url: str) -> str:
    """Return the id at the end of a URL, absolute or relative."""
    try:
        found = urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        found = ""
    if not ID.fullmatch(found):
        raise bad_header("Upload-Concat", f"`{url[:200]}` is not the URL of an upload")
    return found


def date(seconds: float) -> str:
    """Return a Unix time as HTTP has it."""
    return formatdate(seconds, usegmt=True)


def head_of(upload: Upload, offset: int) -> dict[str, str]:
    """Return the headers of the answer to HEAD."""
    headers = {
        "upload-offset": str(offset),
        "upload-expires": date(upload.expires),
        "cache-control": "no-store",
        "x-upload-status": upload.status,
    }
    if upload.length is None:
        headers["upload-defer-length"] = "1"
    else:
        headers["upload-length"] = str(upload.length)
    if upload.metadata:
        headers["upload-metadata"] = upload.metadata
    if upload.concat:
        headers["upload-concat"] = upload.concat
    return headers
