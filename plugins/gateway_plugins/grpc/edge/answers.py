"""What becomes of a response: a service implements these for each of its methods."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway import GatewayError
from gateway_plugins.grpc.edge.context import Meta


class BadAnswer(GatewayError):
    """A worker's response is not in the format of its API."""


class Bug(GatewayError):
    """The gateway failed on a response."""


class Broken(GatewayError):
    """A worker's response ended before it was whole."""


class WorkerError(GatewayError):
    """A worker told of an error inside a stream. The message is the worker's."""


class Unsupported(GatewayError):
    """A worker's response lacks what the caller has asked for, so the worker cannot do it."""


class Asked(msgspec.Struct, frozen=True):
    """The call that a request asks for: `body` writes its JSON once the caller is known.

    `body` may raise BadRequest. `scope` is the scope that the caller needs, None: that of all calls
    of models. A method may have an Asked of its own, with what its Answer has to know.
    """

    path: str
    body: Callable[[], bytes]
    meta: Meta = Meta()
    method: str = "POST"
    query: bytes = b""
    scope: str | None = None


class Answer(Protocol):
    """Makes the messages of one RPC from a worker's response.

    `expect` is called once the request has been read. `event` and `plain` are called as the
    response arrives, `begin` before the first of them; they raise BadAnswer, Unsupported or
    WorkerError. `take` returns the messages that are ready and not taken yet: what has come since
    the last time, merged. `finish` returns the last ones after the response was recorded; it raises
    Broken if it was not whole, or Unsupported. `finish_reason` and the numbers of tokens are what
    the response says; None if nobody reads them.
    """

    @property
    def finish_reason(self) -> str: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...

    def expect(self, asked: Asked) -> None: ...
    def begin(self, begun: "Begun") -> None: ...
    def event(self, data: bytes) -> None: ...
    def comment(self) -> None: ...
    def plain(self, body: bytes) -> None: ...
    def take(self) -> list[bytes]: ...
    def finish(self) -> list[bytes]: ...


class Begun(msgspec.Struct, frozen=True):
    """How a response began: at which worker, with which weights, and after how many attempts."""

    worker: str = ""
    weight_version: str = ""
    attempts: int = 0


class Method(Protocol):
    """One method of a service. `name` is `/package.Service/Method`.

    `path` is that of its calls, so that nothing is read for a caller without a key; None if the
    request names it.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...

    def read(self, message: bytes) -> Asked:
        """Parse a request. Raises a CallError, such as BadRequest."""

    def answer(self, started: float) -> Answer:
        """Return the answer of a call that began at this `time.monotonic()`."""
