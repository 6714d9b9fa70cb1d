"""Offers of another protocol (RFC 9110, 7.8): all are declined, and a WebSocket is refused."""

from gateway.errors import NotSupported
from gateway.headers import Headers


def check_upgrade(headers: Headers) -> None:
    """Raise NotSupported if the caller wants a WebSocket, which is useless to it as plain HTTP.

    Any other offer is just not taken up: the request goes on in HTTP/1.1.
    """
    for name, value in headers:
        if name == b"upgrade" and b"websocket" in value.lower():
            raise NotSupported(
                "the gateway carries no WebSockets (Upgrade: websocket); connect to the worker",
                headers=((b"connection", b"close"),),
            )
