"""Who calls an RPC that is no call: it is identified in the same way."""

from collections.abc import Callable

from gateway import Call, Headers, Host
from gateway_plugins.grpc.edge.context import Context
from gateway_plugins.grpc.edge.metadata import check_credentials, headers_of


def caller_of(context: Context) -> Call:
    """Return a call that is only authenticated: for `principal` and `id`."""
    return Call(
        Nobody(),
        method="POST",
        path=context.method,
        headers=headers_of(context.metadata),
        client=context.client,
        frontend=context.frontend,
        peer_names=context.names,
    )


async def identify(host: Host, call: Call) -> None:
    """Identify the caller. Raises CallError."""
    check_credentials(call.headers)
    await host.identify(call)


class Nobody:
    """The Caller of a call that gets no response."""

    def __init__(self) -> None:
        self.drained: Callable[[], None] = self.cut

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> bool:
        return True

    def cut(self) -> None: ...

    async def end(self, data: bytes) -> None: ...
