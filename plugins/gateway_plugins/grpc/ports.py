"""Whether another program has the port: the processes of one gateway share it, nobody else may."""

import fcntl
import socket
from hashlib import sha256

from gateway import ConfigError, Peers


def claim(peers: Peers, host: str, port: int) -> int:
    """Return the port that this process is to listen on; 0: any free one.

    The first process of several checks that the port is free, chooses one for 0, and notes it for
    the others. Raises ConfigError if another program listens there, or if there is no such host.
    """
    if "/" in host:
        raise ConfigError(f"host: {host} is no address; Unix sockets are not served")
    key = sha256(f"{host} {port}".encode()).hexdigest()[:16]
    note = peers.file(f"grpc-{key}")
    if note is None:
        return port
    with note.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # all processes may start at once
        file.seek(0)
        told = file.read()
        if told:
            return int(told)
        chosen = _free(host, port)
        file.write(str(chosen))
    return chosen


def _free(host: str, port: int) -> int:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"host: {host}: {error.strerror}") from None
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(address)
        except OSError as error:
            raise ConfigError(f"port: {host}:{port} is taken: {error.strerror}") from None
        chosen: int = made.getsockname()[1]
        return chosen
