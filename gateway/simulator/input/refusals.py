"""Error responses of the engine, in its own wording.

There are two kinds: the schema's (type "Bad Request"; pydantic's list of errors as text) and the
engine's (type "BadRequestError"; a sentence with the parameter at its end). Both have status 400,
and `code` is a number. A path or method that does not exist has yet another shape.
"""

import json
from typing import Any, TypeVar

import msgspec

from gateway.config.hints import container_kind, members, peel, without_none
from gateway.config.misfit import Misfit, misfit

T = TypeVar("T", bound=msgspec.Struct)

_CRASH = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_SCALE_OUT = (
    "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
)


_NO_REASONING = (
    "thinking_token_budget is set but reasoning_config is not configured. Please set "
    "--reasoning-parser and/or --reasoning-config to use thinking_token_budget."
)


class Refused(Exception):
    """Ends a call with `status` and the engine's envelope.

    `by_engine`: the engine itself refuses, once the head of a stream is sent; `stream` are then the
    events of that stream, if it was one.
    """

    by_engine = False
    stream: bytes | None = None

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    @property
    def general(self) -> bool:
        """Whether the server refuses before a dialect is asked, as its schema does."""
        return self.kind == "Bad Request"

    def envelope(self) -> dict[str, object]:
        """The body, before it is encoded."""
        error = {"message": self.message, "type": self.kind, "param": self.param}
        return {"error": {**error, "code": self.status}}

    def body(self) -> bytes:
        return msgspec.json.encode(self.envelope())


def bad_request(message: str, param: str | None = None, value: object = None) -> Refused:
    """Return the engine's own 400; it names the parameter, and the value if that was the fault."""
    if param is not None:
        shown = "" if value is None else f", value={value}"
        message = f"{message} (parameter={param}{shown})"
    return Refused(400, message, "BadRequestError", param)


def no_reasoning() -> Refused:
    """Return the error for a budget of thoughts if the engine does not tell them apart."""
    refused = bad_request(_NO_REASONING)
    refused.by_engine = True
    return refused


def unknown_model(asked: str, served: str) -> Refused:
    message = f"The model `{asked}` does not exist. Valid aliases: {served}."
    return Refused(404, message, "NotFoundError", "model")


def crashed() -> Refused:
    """Return the error for callers once the engine's process is dead."""
    return Refused(500, _CRASH, "InternalServerError")


class _Scaling(Refused):
    """A 503 in the words and the shape of vLLM's own: it comes before the engine is asked."""

    def __init__(self) -> None:
        message = "The model is currently scaling. Please try again later."
        super().__init__(503, message, "ServiceUnavailableError")

    @property
    def general(self) -> bool:
        return True

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.message})


def overloaded() -> Refused:
    """Return the error while the engine takes no requests."""
    return _Scaling()


def no_scale_out() -> Refused:
    return Refused(403, _SCALE_OUT, "PermissionDeniedError")


def wrong_media_type() -> Refused:
    message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    return Refused(400, message, "Bad Request")


def bad_schema(
    kind: str, where: str, says: str, value: str, context: dict[str, object] | None = None
) -> Refused:
    """Return the schema's 400, for one mistake at the path `where` ("body.messages.0")."""
    entry: dict[str, object] = {"type": kind, "loc": where, "msg": says, "input": value}
    if context is not None:
        entry["ctx"] = context
    return Refused(400, f"1 validation error:\n  {entry}", "Bad Request", where)


def unfit(where: str, says: str, value: object) -> Refused:
    """Return the schema's 400 for a value that does not fit others, or the API."""
    context: dict[str, object] = {"error": ValueError(says)}
    return bad_schema("value_error", where, f"Value error, {says}", shown(value), context)


def missing(where: str, inside: object) -> Refused:
    return bad_schema("missing", where, "Field required", shown(inside))


def shown(value: object) -> str:
    """Return a value as the schema's errors show it: containers by their size alone."""
    if isinstance(value, dict):
        return f"<dict of {len(value)} items>"
    if isinstance(value, list):
        return f"<list of {len(value)} items>"
    return str(value)


def parse(body: bytes, kind: type[T]) -> T:
    """Decode the JSON `body` as `kind`; raises Refused as the engine's schema does."""
    if not body:
        raise missing("body", None)
    try:
        raw = json.loads(body)
    except json.JSONDecodeError as error:
        raise _not_json(error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise _not_json(error.start, "Expecting value") from None
    except (ValueError, RecursionError):  # thousands of digits, or nested too deep
        raise Refused(400, "There was an error parsing the body", "Bad Request") from None
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError:
        raise _translated(misfit(raw, kind, strict=False) or Misfit((), raw, kind)) from None


def _not_json(position: int, says: str) -> Refused:
    context: dict[str, object] = {"error": says}
    where = f"body.{position}"
    return bad_schema("json_invalid", where, "JSON decode error", shown({}), context)


_WRONG_TYPE = {
    int: ("int_type", "Input should be a valid integer"),
    float: ("float_type", "Input should be a valid number"),
    bool: ("bool_type", "Input should be a valid boolean"),
    str: ("string_type", "Input should be a valid string"),
    list: ("list_type", "Input should be a valid list"),
    dict: ("dict_type", "Input should be a valid dictionary"),
    msgspec.Struct: ("dict_type", "Input should be a valid dictionary"),
}
_UNREADABLE = {
    int: ("int_parsing", "unable to parse string as an integer"),
    float: ("float_parsing", "unable to parse string as a number"),
    bool: ("bool_parsing", "unable to interpret input"),
}


def _translated(fault: Misfit) -> Refused:
    """Return the mistake in a request in pydantic's wording."""
    where = ".".join(["body", *map(str, fault.path)])
    if fault.missing:
        return missing(where, fault.value)
    hint = members(peel(without_none(fault.wanted)).bare)[0]
    wanted: Any = container_kind(hint) or peel(hint).bare
    kind, sentence = _WRONG_TYPE.get(wanted, ("value_error", "Input should be valid"))
    if isinstance(fault.value, str) and wanted in _UNREADABLE:
        kind, reason = _UNREADABLE[wanted]
        sentence = f"{sentence}, {reason}"
    return bad_schema(kind, where, sentence, shown(fault.value))
