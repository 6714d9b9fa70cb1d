"""Reads the lines of a file as requests to queue: lines of OpenAI's batch files, or bare bodies."""

import secrets

import msgspec

from gateway import NOT_JSON, api_of
from gateway_plugins.batch.batches.input.lines import Line
from gateway_plugins.batch.options import MAX_PRIORITY, MIN_PRIORITY
from gateway_plugins.batch.queue.items import Kind, NewItem

CHAT = "/v1/chat/completions"

DEFAULT_PRIORITY = 1
"""Priority of an item of which nobody says one."""

_KINDS: dict[str, tuple[Kind, str]] = {
    CHAT: ("chat_completion", "chatcmpl-"),
    "/v1/completions": ("completion", "cmpl-"),
}
"""By the path of a request, the kind of its item and the beginning of the id."""

Members = dict[str, msgspec.Raw]


class Mistaken(Exception):
    """A line is no request; the message says why."""


class Request(msgspec.Struct, frozen=True):
    """A request of a file."""

    path: str
    model: str
    body: bytes
    custom_id: str | None
    priority: int

    def item(self, submitted: float, deadline: float) -> NewItem:
        """Return a new item for it. Times are Unix seconds."""
        kind, prefix = _KINDS.get(self.path, ("other", "item-"))
        return NewItem(
            id=prefix + secrets.token_hex(12),
            kind=kind,
            path=self.path,
            model=self.model,
            body=self.body,
            priority=self.priority,
            submitted=submitted,
            deadline=deadline,
            custom_id=self.custom_id,
        )


class Reader(msgspec.Struct, frozen=True):
    """Reads lines; a bare body is for the path `endpoint`.

    Each body has at most `most` bytes. `priority` is that of all items; None: each body's own.
    """

    endpoint: str
    most: int
    priority: int | None = None

    def read(self, line: Line) -> Request:
        """Return the request of a line. Raises Mistaken."""
        if line.text is None:
            raise Mistaken(f"the line is longer than {self.most} bytes (max_body_bytes)")
        members = _members(line.text)
        if "body" in members and "url" in members:
            return self._of_batch_line(members)
        return self._of_body(line.text, members)

    def _of_batch_line(self, members: Members) -> Request:
        method = _text(members, "method") if "method" in members else "POST"
        if method != "POST":
            raise Mistaken(f"method must be POST, not {method!r}")
        path, body = _text(members, "url"), bytes(members["body"])
        _check(path, "url")
        model = _text(_members(body, "body"), "model", "body.model")
        custom_id = _text(members, "custom_id") if "custom_id" in members else None
        return Request(path, model, body, custom_id, self._or_default(None))

    def _of_body(self, text: bytes, members: Members) -> Request:
        model = _text(members, "model")
        own = members.pop("priority", None)
        body = text if own is None else msgspec.json.encode(members)
        return Request(self.endpoint, model, body, None, self._or_default(own))

    def _or_default(self, own: msgspec.Raw | None) -> int:
        if self.priority is not None:
            return self.priority
        if own is None:
            return DEFAULT_PRIORITY
        try:
            priority = msgspec.json.decode(own, type=int)
        except NOT_JSON:
            raise Mistaken("priority must be an integer") from None
        return min(max(priority, MIN_PRIORITY), MAX_PRIORITY)


def has_api(path: str) -> bool:
    """Whether workers have an API of models at this path."""
    api = api_of(path)
    return path.startswith("/v1/") and api is not None and api.work not in ("manages", "unknown")


def _check(path: str, name: str) -> None:
    if not has_api(path):
        raise Mistaken(f"{name} is {path[:200]!r}, where workers have no API")


def _members(text: bytes, name: str = "the line") -> Members:
    try:
        text.decode()  # msgspec does not look into strings that are passed on
        return msgspec.json.decode(text, type=Members)
    except UnicodeDecodeError as error:
        byte = f"the byte 0x{text[error.start]:02x} at position {error.start}"
        raise Mistaken(f"{name} is not UTF-8: {byte}") from None
    except msgspec.ValidationError:
        raise Mistaken(f"{name} must be a JSON object") from None
    except NOT_JSON as error:
        raise Mistaken(f"{name} is not valid JSON: {error}") from None


def _text(members: Members, name: str, shown: str | None = None) -> str:
    """Return a member that has to be a text that is not empty."""
    try:
        value = msgspec.json.decode(members.get(name, b""), type=str)
    except NOT_JSON:
        value = ""
    if not value:
        raise Mistaken(f"{shown or name} must be a string that is not empty")
    return value
