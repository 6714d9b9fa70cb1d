"""The kernel in Python: it leaves everything to the Python code of the rooms above."""

from gateway.kernel.interface import Fields, ReadAnswer

BUILT = "no C"
SOURCES = ""


def read_answer(body: bytes, chat: bool, streamed: bool, /) -> ReadAnswer | None:
    del body, chat, streamed
    return None


def strip_answer(body: bytes, ids: bool, logprobs: bool, /) -> bytes | None:
    """`gateway.wire.injection.Stripper.plain` strips answers."""
    del body, ids, logprobs
    return None


def read_fields(body: bytes, /) -> Fields | None:
    """`gateway.wire.request` reads the single fields that are asked for."""
    del body
    return None


def read_request(data: bytes, max_head: int, /) -> None:
    """`gateway.frontends.connection.CallerConnection` reads requests, with llhttp."""
    del data, max_head


def read_response(data: bytes, max_head: int, max_lines: int, /) -> None:
    """`gateway.upstream.response.ResponseParser` reads responses, with llhttp."""
    del data, max_head, max_lines


def join_lines(*_: object, **__: object) -> None:
    """Who writes a head joins its lines."""


def read_usage(_: bytes, /) -> tuple[int, int, int, int] | None:
    """`gateway.wire.reported.usage.read_usage` reads it."""
    return None


def cut(*_: object, **__: object) -> None:
    """`gateway.wire.stripping.fast_strip.Frame` strips events."""


def strip(*_: object) -> None:
    """`gateway.wire.injection.Stripper` strips events."""


def tap(*_: object, **__: object) -> None:
    """`gateway.upstream.connection.Connection` and `gateway.pipeline.relay.Relay` carry reads."""


def is_chunks(_: bytes, __: list[bytes]) -> bool:
    """Nobody needs to know: there is no tap."""
    return False
