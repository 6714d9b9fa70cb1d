"""What carries an RPC: gRPC's own port, or the HTTP port for Connect and gRPC-Web."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway import CallerGone, Headers

Metadata = Sequence[tuple[str, str | bytes]]
"""Keys in lower case; the values of keys that end in `-bin` are bytes."""


class Gone(CallerGone):
    """The caller of an RPC has left, so nothing can be sent."""


class Meta(msgspec.Struct, frozen=True):
    """What a request says of its call; metadata of the same meaning wins."""

    request_id: str = ""
    trace_id: str = ""
    session_id: str = ""
    user_id: str = ""


class Context(Protocol):
    """One RPC, as its transport has it.

    `method` is its path, `/llm.v1.LlmService/ChatCompletion`; `frontend` the name of the transport,
    `client` the address of the caller. `seconds_left` is the time that the caller waits, None: any
    time. `names` are those of the verified certificate of the caller.
    """

    frontend: str
    method: str
    metadata: Metadata
    client: str | None
    seconds_left: float | None
    names: tuple[str, ...]

    async def read(self) -> bytes | None:
        """Return the request, None if there is none. Raises CallError if it is too large."""

    async def begin(self, lines: Headers) -> None:
        """Send metadata ahead of the first message. Raises Gone."""

    async def send(self, message: bytes) -> None:
        """Send a message; return when more may be sent. Raises Gone."""
