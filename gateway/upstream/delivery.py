"""Detects that a worker closed a connection before a byte of the request can have reached it.

A worker may close a kept connection at any time, also while a request is on its way. A generation
must not run twice, so the gateway may send the request again only if it can prove that no worker
has it. The proof is the worker's FIN: it acknowledges all bytes that the worker's kernel had
received by then. If Linux counts no byte acknowledged beyond those sent before the request, the
worker had closed first. A reset proves nothing: Linux ignores the acknowledgement in it, and
acknowledgements are delayed by up to 40 ms, so a worker that read the request and then reset the
connection looks the same.
"""

import asyncio
import socket
import struct
import sys

from gateway.errors import UpstreamClosed

_ACKNOWLEDGED = struct.Struct("@Q")
_OFFSET = 120
"""Byte offset of `tcpi_bytes_acked` in `struct tcp_info` since Linux 4.1; the SYN counts one."""


class ClosedBeforeDelivery(UpstreamClosed):
    """The worker closed the connection before a byte of the request can have reached it."""


def was_never_received(transport: asyncio.BaseTransport, before: int) -> bool:
    """Whether the peer, which has just sent FIN, had received at most the first `before` bytes.

    False if that cannot be known: over TLS, and on systems other than Linux.
    """
    if sys.platform != "linux" or transport.get_extra_info("ssl_object") is not None:
        return False
    raw = transport.get_extra_info("socket")
    try:
        info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _ACKNOWLEDGED.size)
        [acknowledged] = _ACKNOWLEDGED.unpack_from(info, _OFFSET)
    except (OSError, struct.error, AttributeError):  # closed, an old kernel, no socket at all
        return False
    return bool(acknowledged - 1 <= before)
