"""A form (`multipart/form-data`, RFC 7578) with one file, read in chunks of any size."""

import logging
import re
from collections.abc import Mapping
from urllib.parse import unquote

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from gateway import BadRequest

MAX_PARTS = 20
MAX_HEAD = 16 * 1024
"""Maximum size of the header of a part."""

MAX_FIELD = 1_000
"""Maximum size of the name or of the value of a field, or of the name of the file."""

NO_NAME = "upload"
"""Name of a file that has none."""

_PARAMETER = re.compile(r';\s*([^\s=;]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')

_quiet = logging.Logger("forms", logging.CRITICAL + 1)  # noqa: LOG001  it changes no other
"""What is wrong with a form is told to its caller; the parser would log it as well."""


class Form:
    """Reads a form. `file` is the name of the part whose content `feed` returns.

    `fields` are the other parts, by name, as far as they have arrived. `filename` is None until
    the file begins. Raises BadRequest if `content_type` is not that of a form.
    """

    def __init__(self, content_type: str | None, file: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._file = file
        self._parts = 0
        self._head_size = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition: bytes | None = None
        self._name: str | None = None
        self._value = bytearray()
        self._content: list[bytes] = []
        self._is_whole = False
        self._parser = self._new_parser(_boundary(content_type))

    def _new_parser(self, boundary: str) -> MultipartParser:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_begin": self._on_header_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        parser.logger = _quiet
        return parser

    def feed(self, data: bytes) -> bytes:
        """Read a chunk; return what it has of the content of the file. Raises BadRequest."""
        if not self._is_whole:
            try:
                self._parser.write(data)
            except MultipartParseError as error:
                raise BadRequest(f"the body is not a valid form: {error}") from None
        content, self._content = b"".join(self._content), []
        return content

    def end(self) -> None:
        """Raise BadRequest if the form is not whole, or has no file."""
        if not self._is_whole:
            raise BadRequest("the form ends before its last boundary")
        if self.filename is None:
            raise BadRequest(f"the form has no part `{self._file}`", param=self._file)

    # The parser calls these

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts")
        self._head_size = 0
        self._disposition = self._name = None
        self._value = bytearray()

    def _on_header_begin(self) -> None:
        self._header = (bytearray(), bytearray())

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(0, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(1, data[start:end])

    def _add_to_header(self, place: int, data: bytes) -> None:
        self._head_size += len(data)
        if self._head_size > MAX_HEAD:
            raise BadRequest(f"the header of a part of the form is larger than {MAX_HEAD} bytes")
        self._header[place].extend(data)

    def _on_header_end(self) -> None:
        field, value = (bytes(one) for one in self._header)
        if field.lower() == b"content-disposition":
            self._disposition = value
        elif field.lower() == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN:
            raise BadRequest("a part of the form has a content-transfer-encoding: send it as it is")

    def _on_headers_finished(self) -> None:
        found = _parameters(_text(self._disposition or b"", "the header of a part"))
        self._name = name = found.get("name")
        if name is None:
            raise BadRequest("a part of the form has no name")
        if name != self._file:
            return
        if self.filename is not None:
            raise BadRequest(f"the form has several parts `{name}`", param=name)
        self.filename = _filename(found)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file:
            self._content.append(data[start:end])
            return
        self._value.extend(data[start:end])
        if len(self._value) > MAX_FIELD or len(self._name or "") > MAX_FIELD:
            raise BadRequest(f"a field of the form is longer than {MAX_FIELD} bytes")

    def _on_part_end(self) -> None:
        name = self._name or ""
        if name == self._file:
            return
        if name in self.fields:
            raise BadRequest(f"the form has several parts `{name}`", param=name)
        self.fields[name] = _text(bytes(self._value), "a field")

    def _on_end(self) -> None:
        self._is_whole = True


_PLAIN = (b"7bit", b"8bit", b"binary")


def _boundary(content_type: str | None) -> str:
    """Return the boundary that the header of a request names. Raises BadRequest."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    boundary = _parameters(content_type or "").get("boundary", "")
    if kind != "multipart/form-data":
        raise BadRequest("the body must be a form: content-type: multipart/form-data")
    if not (boundary.isascii() and boundary.isprintable() and 1 <= len(boundary) <= 70):
        raise BadRequest("the content-type names no boundary of 1 to 70 characters")
    return boundary


def _parameters(header: str) -> Mapping[str, str]:
    """Return the parameters of a header's value, by their names in lower case; the first counts."""
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(header):
        found.setdefault(name.lower(), plain or _ESCAPED.sub(r"\1", quoted))
    return found


def _filename(found: Mapping[str, str]) -> str:
    """Return the name of a file. Most clients write a quote as %22, old ones use RFC 2231."""
    name = found.get("filename", "").replace("%22", '"')
    if not name and "filename*" in found:
        name = unquote(found["filename*"].rpartition("'")[2])
    if len(name) > MAX_FIELD:
        raise BadRequest(
            f"the name of the file is longer than {MAX_FIELD} characters", param="file"
        )
    return name or NO_NAME


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{what} of the form is not UTF-8") from None
