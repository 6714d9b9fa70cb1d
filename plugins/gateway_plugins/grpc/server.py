"""The port of gRPC. This file alone knows the library `grpc`.

It is imported after the processes of a gateway have forked: the library must not be touched before.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from gateway import Headers
from gateway_plugins.grpc.certificates import Certificates
from gateway_plugins.grpc.details import trailers
from gateway_plugins.grpc.edge.context import Gone, Metadata
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.options import Options
from gateway_plugins.grpc.served import Serve
from gateway_plugins.grpc.status import Code

log = logging.getLogger("gateway")

CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


GONE = (grpc.aio.UsageError, grpc.aio.InternalError, grpc.aio.AbortError)
"""What the library raises if the caller has left."""


OVER = "ExecuteBatchError"
"""The library's exception if an RPC has ended while something is sent."""


def is_ours(record: logging.LogRecord) -> bool:
    """Whether to keep a record of the library, without its arguments: callers have sent them.

    Metadata that is no text is logged with a traceback; its caller is refused. So is an RPC that
    the caller or the library ends while something is sent: nobody is left to send it to.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, UnicodeError) or type(error).__name__ == OVER:
        return False
    if str(record.msg).startswith(OVER):
        return False
    record.msg, record.args = str(record.msg).partition("%")[0], ()
    return True


class RpcContext:
    """A Context, see gateway_plugins.grpc.edge.context."""

    frontend = "grpc"

    def __init__(self, method: str, context: Any) -> None:
        self.method = method
        self.metadata: Metadata = tuple(context.invocation_metadata() or ())
        self.client = _address(context.peer())
        self.seconds_left: float | None = context.time_remaining()
        self.names = _names(context.auth_context())
        self._context = context

    async def read(self) -> bytes | None:
        try:
            message = await self._context.read()
        except GONE as error:
            raise Gone(str(error)) from None
        return message if isinstance(message, bytes) else None

    async def begin(self, lines: Headers) -> None:
        metadata = [(name.decode(), value.decode()) for name, value in lines]
        try:
            await self._context.send_initial_metadata(metadata)
        except GONE as error:
            raise Gone(str(error)) from None

    async def send(self, message: bytes) -> None:
        try:
            await self._context.write(message)
        except GONE as error:
            raise Gone(str(error)) from None


class Server:
    """Serves methods by name; `serve` carries the RPCs of each."""

    def __init__(self, messages: Messages, options: Options, limit: int, *, shared: bool) -> None:
        self._messages = messages
        self._options = options
        self._methods: dict[str, Any] = {}
        logging.getLogger("grpc._cython.cygrpc").addFilter(is_ours)
        self._server = grpc.aio.server(options=_arguments(options, limit, shared=shared))
        self._server.add_generic_rpc_handlers((self,))

    def add(self, name: str, serve: Serve) -> None:
        """Serve the method `/package.Service/Method`."""

        async def run(_: Any, context: Any) -> None:
            await self._run(name, serve, context)

        # One message is a stream of one message on the wire, so all methods are streams here: the
        # library then reads nothing of a request by itself.
        self._methods[name] = grpc.stream_stream_rpc_method_handler(run)

    def service(self, details: Any) -> Any:
        """Return the handler of a call, None if there is no such method: what the library asks."""
        return self._methods.get(details.method)

    async def _run(self, name: str, serve: Serve, context: Any) -> None:
        status, sent = await serve(RpcContext(name, context))
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # the library has ended the RPC and sends nothing more
        lines = tuple(trailers(self._messages, status, sent))
        if status.code is Code.OK:
            context.set_trailing_metadata(lines)
            return
        await context.abort(CODES[status.code], status.message, lines)

    async def start(self, host: str, port: int, certificates: Certificates | None) -> int:
        """Listen; return the port. Raises OSError if the address is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if certificates is None:
                bound: int = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, _credentials(certificates))
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from None
        await self._server.start()
        return bound

    async def stop(self, seconds: float | None) -> None:
        """Refuse new calls, give those that run `seconds` to end, then end them."""
        await self._server.stop(seconds)


def _arguments(options: Options, limit: int, *, shared: bool) -> Sequence[tuple[str, int]]:
    """Return the arguments of a channel: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html

    `limit` is the size of the largest request in bytes.
    """
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", round(options.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this name a client that pings during a long prefill is thrown out. A second
        # between two pings is the least that programs set, and a timer may come early.
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.max_connection_age_ms", round(options.max_connection_age * 1000)),
        ("grpc.max_concurrent_streams", options.max_streams),
        ("grpc.so_reuseport", int(shared)),
        # Requests are small: pings that measure how large a window they could use cost more.
        ("grpc.http2.bdp_probe", 0),
    )


def _credentials(certificates: Certificates) -> Any:
    def made() -> Any:
        cert, key, client_ca = certificates.read()
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)

    def fetch() -> Any:
        return made() if certificates.has_changed() else None

    return grpc.dynamic_ssl_server_credentials(made(), fetch, certificates.require_client)


def _address(peer: str) -> str | None:
    """Return the address of `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return unquote(rest).rpartition(":")[0].strip("[]")


def _names(context: Mapping[str, Sequence[bytes]]) -> tuple[str, ...]:
    """Return the names of the caller's verified certificate."""
    found = context.get("x509_subject_alternative_name") or context.get("x509_common_name") or ()
    return tuple(name.decode("utf-8", "replace") for name in found)
