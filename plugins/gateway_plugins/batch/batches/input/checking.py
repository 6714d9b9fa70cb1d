"""Reads the lines of an input file as requests, and says what is wrong with them."""

from hashlib import blake2b
from typing import Any

import msgspec

from gateway import NOT_JSON, Body, is_true
from gateway_plugins.batch.batches.input.lines import Line

MAX_SHOWN = 200
"""Characters of a caller's own text that a message repeats."""


class Mistake(msgspec.Struct, frozen=True):
    """What is wrong with an input file, as the API shows it: `param` names a member of the line."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Mistaken(Exception):
    """A line is no request that a batch can run."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param

    def at(self, line: int) -> Mistake:
        return Mistake(self.code, str(self), self.param, line)


class Request(msgspec.Struct, frozen=True):
    """A line of an input file. `body` is as it came, `inputs` counts the texts to embed."""

    custom_id: str
    model: str
    body: bytes
    inputs: int


class _Body(msgspec.Struct):
    """The members of a body that a batch looks at."""

    model: Any = None
    stream: Any = None
    input: msgspec.Raw = msgspec.Raw(b"null")


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BODY = msgspec.json.Decoder(_Body)
_INPUTS = msgspec.json.Decoder(list[msgspec.Raw])


def read(line: Line, endpoint: str, most: int) -> Request:
    """Return the request of a line of at most `most` bytes. Raises Mistaken."""
    members = _members(line, most)
    custom_id = _text(members, "custom_id")
    method, url = _text(members, "method"), _text(members, "url")
    if method != "POST":
        raise Mistaken("invalid_request", f"method must be POST, not {_shown(method)}", "method")
    if url != endpoint:
        message = f"url is {_shown(url)}, and the batch was created for {endpoint}"
        raise Mistaken("url_mismatch", message, "url")
    if "body" not in members:
        raise Mistaken("invalid_request", "body is missing", "body")
    text = bytes(members["body"])
    model, inputs = _of_body(text, endpoint)
    return Request(custom_id, model, _as_it_came(text, line), inputs)


def _as_it_came(body: bytes, line: Line) -> bytes:
    """Return the body with any lone half of a surrogate pair, which `_readable` has replaced."""
    came, read_ = line.text or b"", _readable(line)
    if came == read_:
        return body
    start = read_.index(body)
    return came[start : start + len(body)]


def _readable(line: Line) -> bytes:
    """Return a text of the same length that can be parsed if engines parse the line."""
    return Body(line.text).readable or b""


def _members(line: Line, most: int) -> dict[str, msgspec.Raw]:
    if line.text is None:
        message = f"the line is longer than {most} bytes (max_body_bytes)"
        raise Mistaken("invalid_request", message)
    try:
        line.text.decode()
        return _MEMBERS.decode(_readable(line))
    except msgspec.ValidationError:
        raise Mistaken("invalid_json_line", "the line is JSON, but no object") from None
    except NOT_JSON as error:
        raise Mistaken("invalid_json_line", _reason(line, error)) from None


def _reason(line: Line, error: Exception) -> str:
    assert line.text is not None
    if b"\0" in line.text[:4]:
        return "the file is UTF-16 or UTF-32, and JSON is UTF-8 (RFC 8259)"
    if isinstance(error, UnicodeDecodeError):
        byte = line.text[error.start]
        return f"the byte 0x{byte:02x} at position {error.start} of the line is not UTF-8"
    cut = "" if line.is_ended else "; the file ends in this line: it may have been cut off"
    return f"the line is not valid JSON: {error}{cut}"


def _text(members: dict[str, msgspec.Raw], name: str) -> str:
    """Return a member that has to be a text that is not empty."""
    if name not in members:
        raise Mistaken("invalid_request", f"{name} is missing", name)
    try:
        value = msgspec.json.decode(members[name], type=str)
    except NOT_JSON:
        raise Mistaken("invalid_request", f"{name} must be a string", name) from None
    if not value:
        raise Mistaken("invalid_request", f"{name} is empty", name)
    return value


def _of_body(text: bytes, endpoint: str) -> tuple[str, int]:
    """Return the model, and how many inputs there are. Raises Mistaken."""
    try:
        body = _BODY.decode(text)
    except msgspec.ValidationError:
        raise Mistaken("invalid_request", "body must be an object", "body") from None
    except NOT_JSON as error:
        raise Mistaken("invalid_json_line", f"body is not valid JSON: {error}", "body") from None
    if not isinstance(body.model, str) or not body.model:
        message = "body.model must be a string that is not empty"
        raise Mistaken("invalid_request", message, "body.model")
    if is_true(body.stream):
        message = "body.stream is true, and the responses of a batch are not streamed"
        raise Mistaken("invalid_request", message, "body.stream")
    return body.model, _inputs(body.input, endpoint)


def _inputs(given: msgspec.Raw, endpoint: str) -> int:
    """Return how many texts are to be embedded: a list of numbers is one text."""
    if not endpoint.endswith("/embeddings"):
        return 1
    try:
        found = _INPUTS.decode(given)
    except NOT_JSON:
        return 1
    return len(found) if found and bytes(found[0])[:1] in (b'"', b"[", b"{") else 1


def _shown(text: str) -> str:
    """Return a caller's text for a message."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


class Limits(msgspec.Struct, frozen=True):
    """What an input file may have: `lines`, inputs of embeddings and bytes of a line; one model."""

    lines: int
    line_bytes: int
    one_model: bool


class Checker:
    """Checks the lines of one file. `lines` counts them, `models` are the first two that differ."""

    def __init__(self, endpoint: str, limits: Limits) -> None:
        self.lines = 0
        self.models: list[str] = []
        self._endpoint = endpoint
        self._limits = limits
        self._inputs = 0
        self._seen: dict[bytes, int] = {}

    def check(self, line: Line) -> None:
        """Check the next line. Raises Mistaken, and TooMany if no further line may follow."""
        self.lines += 1
        if self.lines > self._limits.lines:
            message = f"the file has more than {self._limits.lines} lines (max_lines)"
            raise TooMany("too_many_tasks", message)
        request = read(line, self._endpoint, self._limits.line_bytes)
        self._note(request.custom_id, line.number)
        self._count(request.inputs)
        if request.model not in self.models and len(self.models) < 2:
            self.models.append(request.model)
        if self._limits.one_model and request.model != self.models[0]:
            message = (
                f"the model is {_shown(request.model)}, and that of the first line "
                f"{_shown(self.models[0])}: this gateway takes one model in a file (one_model)"
            )
            raise Mistaken("model_mismatch", message, "body.model")

    def _note(self, custom_id: str, number: int) -> None:
        key = blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        first = self._seen.setdefault(key, number)
        if first != number:
            message = f"line {first} has the custom_id {_shown(custom_id)}, too"
            raise Mistaken("duplicate_custom_id", message, "custom_id")

    def _count(self, inputs: int) -> None:
        self._inputs += inputs
        if self._inputs > self._limits.lines:
            message = f"the file has more than {self._limits.lines} inputs in all (max_lines)"
            raise TooMany("too_many_tasks", message, "body.input")


class TooMany(Mistaken):
    """The file has more than a batch may have; the lines that follow are not looked at."""
