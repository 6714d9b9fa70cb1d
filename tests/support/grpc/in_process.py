"""RPCs in this process: a transport that keeps the messages, before a gateway without a port."""

from typing import Any

from gateway_plugins.grpc.edge.answers import Method
from gateway_plugins.grpc.edge.calling import Rpc
from gateway_plugins.grpc.edge.context import Metadata
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Status

from gateway import Gateway, Headers

MESSAGES = Messages()


class KeptMessages:
    """A Context of the plugin; `sent` are the messages, `lines` the metadata before them."""

    frontend = "grpc"

    def __init__(self, method: str, request: Any, *metadata: tuple[str, str]) -> None:
        self.method = method
        self.request: bytes = request.SerializeToString()
        self.metadata: Metadata = metadata
        self.client: str | None = "127.0.0.1"
        self.seconds_left: float | None = None
        self.names: tuple[str, ...] = ()
        self.was_read = False
        self.sent: list[bytes] = []
        self.lines: Headers = ()

    async def read(self) -> bytes | None:
        self.was_read = True
        return self.request

    async def begin(self, lines: Headers) -> None:
        self.lines = lines

    async def send(self, message: bytes) -> None:
        self.sent.append(message)


async def carried(
    gateway: Gateway, method: Method, request: Any, response: str, *metadata: tuple[str, str]
) -> tuple[Status, list[Any]]:
    """Carry one RPC; return how it ended, and its messages, which are of the type `response`."""
    context = KeptMessages(method.name, request, *metadata)
    status = await Rpc(gateway, method, context).run()
    kind = MESSAGES.type(f"gateway.v1.{response}")
    return status, [kind.FromString(data) for data in context.sent]


def message(name: str, **fields: Any) -> Any:
    """Return a message of the gateway's own service."""
    return MESSAGES.type(f"gateway.v1.{name}")(**fields)
