"""A worker that is there and that nobody can connect to."""

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def full_backlog(port: int = 0) -> Iterator[str]:
    """The URL of a listening socket whose backlog is full: the kernel lets connections wait."""
    with socket.socket() as listening, socket.socket() as filling:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        filling.connect(listening.getsockname())
        yield "http://{}:{}".format(*listening.getsockname())
