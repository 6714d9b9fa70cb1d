"""Sockets of several processes that listen on one port."""

import errno
import os
import socket
import sys
from collections.abc import Sequence

BALANCED = sys.platform == "linux"
"""Whether the kernel distributes new connections over the sockets of one port (SO_REUSEPORT).

On other systems the option is missing or means something else, and all processes accept from one
socket.
"""

Address = tuple[socket.AddressFamily, tuple[object, ...]]


def listening(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """Return the sockets of each of `count` processes, bound and not listening yet.

    There is one socket per address of `host`; with port 0 all sockets have the same free port.
    Raises OSError, also if another program listens there.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = [(family, address) for family, *_, address in dict.fromkeys(found)]
    sockets: list[list[socket.socket]] = [[] for _ in range(count)]
    for family, address in addresses:
        same = _of(family, (address[0], port, *address[2:]), count)
        port = same[0].getsockname()[1]
        for own, one in zip(sockets, same, strict=True):
            own.append(one)
    return sockets


def _of(
    family: socket.AddressFamily, address: tuple[object, ...], count: int
) -> Sequence[socket.socket]:
    if count == 1 or not BALANCED:
        return [_bound(family, address, shared=False)] * count
    if address[1]:
        # Another gateway of the same user would share its port, and each would get some calls.
        _bound(family, address, shared=False).close()
    first = _bound(family, address, shared=True)
    address = (address[0], first.getsockname()[1], *address[2:])
    return [first, *(_bound(family, address, shared=True) for _ in range(count - 1))]


def _bound(
    family: socket.AddressFamily, address: tuple[object, ...], *, shared: bool
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        code = error.errno or errno.EINVAL
        why = os.strerror(code).lower()
        said = f"error while attempting to bind on address {address}: {why}"
        raise OSError(code, said) from None
    return made
