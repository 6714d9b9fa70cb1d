"""A caller of `llm.v1`, and all that it is told of the end of a call."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import msgspec
from gateway_plugins.grpc.messages import Messages
from support.grpc.stubs import channel

MESSAGES = Messages()

SERVICE = "/llm.v1.LlmService/"

Metadata = tuple[tuple[str, str | bytes], ...]


class Ended(msgspec.Struct, frozen=True):
    """How an RPC ended. `details` are by their names, `pushback` is `grpc-retry-pushback-ms`.

    `size` is that of the message and the trailers, on the wire; `seconds` how long it took.
    """

    code: str
    message: str = ""
    chunks: list[Any] = []
    details: dict[str, Any] = {}
    initial: dict[str, Any] = {}
    trailing: dict[str, Any] = {}
    size: int = 0
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        return str(self.details["ErrorInfo"].reason) if self.details else ""

    @property
    def facts(self) -> dict[str, str]:
        return dict(self.details["ErrorInfo"].metadata)

    @property
    def pushback(self) -> str | None:
        return self.trailing.get("grpc-retry-pushback-ms")

    @property
    def retry(self) -> float | None:
        """Seconds of RetryInfo."""
        found = self.details.get("RetryInfo")
        return None if found is None else found.retry_delay.ToTimedelta().total_seconds()

    @property
    def text(self) -> str:
        return "".join(chunk.deltaText for chunk in self.chunks)

    @property
    def request_id(self) -> str:
        return str(self.trailing.get("x-request-id", ""))


class Caller:
    """A channel to the port of gRPC, used by threads."""

    def __init__(self, port: int, **options: Any) -> None:
        self.channel = channel(port, **options)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def stream(self, request: Any, metadata: Metadata = (), timeout: float | None = 20) -> Any:
        """Begin `ChatCompletionStream`; `request` is a message or bytes."""
        made = self.channel.unary_stream(
            SERVICE + "ChatCompletionStream", serialized, _reader("ChatCompletionChunkResponse")
        )
        return made(request, metadata=metadata, timeout=timeout)

    def ask(self, request: Any, metadata: Metadata = (), timeout: float | None = 20) -> Ended:
        """Call `ChatCompletionStream`, and return how that ended."""
        began = time.monotonic()
        call = self.stream(request, metadata, timeout)
        return ended(call, _taken(call), began)

    def title(self, request: Any, metadata: Metadata = (), timeout: float | None = 20) -> Ended:
        """Call `ChatCompletion`, and return how that ended."""
        began = time.monotonic()
        made = self.channel.unary_unary(
            SERVICE + "ChatCompletion", serialized, _reader("ChatCompletionResponse")
        )
        call = made.future(request, metadata=metadata, timeout=timeout)
        error = call.exception()
        return ended(call, [] if error is not None else [call.result()], began)


def ended(call: Any, chunks: list[Any], began: float) -> Ended:
    """Return how `call` ended."""
    message = call.details() or ""
    trailing = dict(call.trailing_metadata() or ())
    size = len(message.encode()) + sum(_size(*line) for line in trailing.items())
    return Ended(
        call.code().name,
        message,
        chunks,
        _details(trailing.get("grpc-status-details-bin", b"")),
        dict(call.initial_metadata() or ()),
        trailing,
        size,
        time.monotonic() - began,
    )


def chat(model: str, prompt: str = "Hello", **more: Any) -> Any:
    """Return a request."""
    kind = MESSAGES.type("llm.v1.ChatCompletionRequest")
    return kind(model=model, user_prompt=prompt, **more)


def serialized(request: Any) -> bytes:
    return request if isinstance(request, bytes) else bytes(request.SerializeToString())


def _taken(call: Any) -> list[Any]:
    return list(_until_error(call))


def _until_error(call: Any) -> Iterator[Any]:
    try:
        yield from call
    except grpc.RpcError:
        return


def _reader(name: str) -> Any:
    return MESSAGES.type(f"llm.v1.{name}").FromString


def _size(name: str, value: str | bytes) -> int:
    """Return the size of a line of metadata; binary values are in base64 on the wire."""
    return len(name) + (len(value) * 4 // 3 if isinstance(value, bytes) else len(value))


def _details(packed: bytes) -> dict[str, Any]:
    whole = MESSAGES.type("google.rpc.Status").FromString(packed)
    found = {}
    for one in whole.details:
        name = one.type_url.rpartition("/")[2]
        found[name.rpartition(".")[2]] = MESSAGES.type(name).FromString(one.value)
    return found
