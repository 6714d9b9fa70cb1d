"""Where the time of a call went, as the header `Server-Timing` tells it (W3C Server Timing)."""

import msgspec

from gateway.headers import HeaderLine

NAME = b"server-timing"

BOUNDS = (
    *(0.00005, 0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
"""Bounds in seconds for a histogram of the gateway's own shares."""


class Shares(msgspec.Struct):
    """Seconds from the call's start until the head of the response went to the caller.

    `queue`: it waited. `connect`: a connection to the worker was opened. `worker`: until the first
    byte of the worker's response, None if the response is not a worker's. `failed`: attempts whose
    response the caller did not get. `gateway`: all the rest, so the gateway's own work.
    """

    queue: float
    gateway: float
    connect: float = 0.0
    worker: float | None = None
    failed: float = 0.0

    def line(self) -> HeaderLine:
        """Return the header; durations are in milliseconds."""
        queue, own, worker = self.queue * 1e3, self.gateway * 1e3, self.worker
        if worker is None:
            value = b"queue;dur=%.3f, gateway;dur=%.3f" % (queue, own)
        elif queue or self.connect:
            value = b"queue;dur=%.3f, connect;dur=%.3f, worker;dur=%.3f, gateway;dur=%.3f" % (
                queue,
                self.connect * 1e3,
                worker * 1e3,
                own,
            )
        else:  # nearly always: formatting a number costs more than the rest
            value = b"queue;dur=0, connect;dur=0, worker;dur=%.3f, gateway;dur=%.3f" % (
                worker * 1e3,
                own,
            )
        if self.failed:
            value += b", failed;dur=%.3f" % (self.failed * 1e3)
        return NAME, value


def comment_of(total: float, worker: float | None, commit: float) -> bytes:
    """Return the comment for the end of a stream, of seconds until its last bytes go out.

    `worker` is the time from the request to the last byte of the worker's response, `commit` the
    time since then.
    """
    value = b": server-timing total;dur=%.3f" % (total * 1e3)
    if worker is not None:
        value += b", worker;dur=%.3f, commit;dur=%.3f" % (worker * 1e3, commit * 1e3)
    return value + b"\n\n"
