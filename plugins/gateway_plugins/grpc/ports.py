"""Whether another program has the port: the processes of one gateway share it, nobody else may."""

import socket
from pathlib import Path

from gateway import ConfigError, Peers

FILE = "grpc-port"


def claim(peers: Peers, host: str, port: int) -> int:
    """Return the port that this process is to listen on; 0: any free one.

    The first process of several checks that the port is free, chooses one for 0, and notes it for
    the others. Raises ConfigError if another program listens there.
    """
    note = peers.file(FILE)
    if note is None:
        return port
    if note.exists():
        return int(note.read_text())
    return _noted(note, _free(host, port))


def _free(host: str, port: int) -> int:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(address)
        except OSError as error:
            raise ConfigError(f"port: {host}:{port} is taken: {error.strerror}") from None
        chosen: int = made.getsockname()[1]
        return chosen


def _noted(note: Path, port: int) -> int:
    note.write_text(str(port))
    return port
