"""The kernel in Python: it leaves everything to the Python code of the rooms above."""

from gateway.kernel.interface import ReadAnswer

BUILT = "no C"
SOURCES = ""


def read_answer(body: bytes, chat: bool, streamed: bool, /) -> ReadAnswer | None:
    del body, chat, streamed
    return None


def strip_answer(body: bytes, ids: bool, logprobs: bool, /) -> bytes | None:
    """`gateway.wire.injection.Stripper.plain` strips answers."""
    del body, ids, logprobs
    return None


def append_members(body: bytes, members: bytes, /) -> bytes | None:
    """`gateway.wire.injection.rewrite` sets members of a body."""
    del body, members
    return None


def cut(*_: object, **__: object) -> None:
    """`gateway.wire.stripping.fast_strip.Frame` strips events."""


def tap(*_: object, **__: object) -> None:
    """`gateway.upstream.connection.Connection` and `gateway.pipeline.relay.Relay` carry reads."""


def is_chunks(_: bytes, __: list[bytes]) -> bool:
    """Nobody needs to know: there is no tap."""
    return False
