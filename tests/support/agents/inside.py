"""A program that begins in a network of its own: opens a door there, then becomes an agent.

    python inside.py SOCKET PORT PROGRAM [ARGUMENT...]

SOCKET is the descriptor of a Unix socket on which the listening socket of the door is sent.
"""

import fcntl
import os
import socket
import struct
import sys

SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def bring_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), IFF_UP))


def main(channel: int, port: int, command: list[str]) -> None:
    bring_up("lo")
    with (
        socket.create_server(("127.0.0.1", port), backlog=128) as door,
        socket.socket(fileno=channel) as sending,
    ):
        socket.send_fds(sending, [b"."], [door.fileno()])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
