"""Callers that go away, and what is left of their calls."""

import gc
import socket
import struct
from collections import Counter
from pathlib import Path

from support.callers.raw_client import RawClient

from gateway import Call
from gateway.frontends.asgi import ASGICaller
from gateway.frontends.uvicorn import DirectCaller
from gateway.pipeline.relay import Relay
from gateway.upstream.connection import Connection

KINDS = (Call, Relay, Connection, DirectCaller, ASGICaller)


def leave(client: RawClient, *, reset: bool) -> None:
    """Close the connection, by RST as of a process that was killed, or by FIN."""
    if reset:
        raw = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def alive(*kinds: type) -> Counter[str]:
    """How many there are of what belongs to a call, and of the `kinds` given."""
    gc.collect()
    wanted = (*KINDS, *kinds)
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in wanted)
