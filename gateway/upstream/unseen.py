"""Whether a connection was closed before a byte of the request can have reached the worker.

A worker closes a kept connection when it likes, and that may cross with a request on its way. A
generation must not run twice, so that request may go out again only with a proof that nobody has
it. The proof is the worker's FIN: it acknowledges all that its kernel had taken in by then, so
where Linux counts nothing acknowledged beyond what was sent before, the worker had closed first.
A reset proves nothing: Linux does not look at what it acknowledges, and acknowledgements are held
back for up to 40 ms, so a worker that read the request and then reset looks the same.
"""

import asyncio
import socket
import struct
import sys

from gateway.errors import UpstreamClosed

_ACKNOWLEDGED = struct.Struct("@Q")
_OFFSET = 120
"""Of `tcpi_bytes_acked` in the kernel's `struct tcp_info`, since Linux 4.1; the SYN counts one."""


class ClosedUnseen(UpstreamClosed):
    """The worker had closed the connection before it can have had a byte of the request."""


def sent_in_vain(transport: asyncio.BaseTransport, before: int) -> bool:
    """Whether the peer, whose FIN has just come, had nothing beyond the first `before` bytes.

    False where that cannot be known: over TLS, and elsewhere than on Linux.
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
