"""Ports that nobody takes between the moment they are found free and the moment they are used."""

import functools
import itertools
import os
import socket
from collections.abc import Iterator

FIRST, EACH, TESTERS = 10_000, 2_500, 8
"""Below 32,768, from where systems take the ports of clients and of servers that ask for any."""


def free_port() -> int:
    """Return a port that is free, which no other process of this test run returns."""
    return next(port for port in _ports() if _is_free(port))


@functools.cache
def _ports() -> Iterator[int]:
    tester = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % TESTERS
    first = FIRST + EACH * tester
    return (first + place % EACH for place in itertools.count(os.getpid()))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
