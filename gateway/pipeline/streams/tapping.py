"""Lets a kernel carry the reads of a stream past the parser, the reader and the reply.

Nearly all events of a stream have a form that the kernel knows, or one that the first of them show.
A Tap carries each read of them in one call: see gateway.kernel.interface. Whatever it leaves takes
the way of all other responses, and after that the tap is offered again.
"""

from collections.abc import Callable
from math import inf
from time import monotonic

from gateway.calls.observers import Collectors
from gateway.kernel import Kernel
from gateway.kernel.interface import Cut, Settled, Strip, Tap
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import ANY_EVENTS, AnyEvents, EventReader, Form, Reader, StreamReader
from gateway.upstream.connection import Connection
from gateway.wire.stripping.any_frame import AnyFrame
from gateway.wire.stripping.fast_strip import Frame

PART = "stream"
"""The name under which reads are counted that a tap has left in the middle of a stream."""

COLLECTOR_ERRORS = (AttributeError, OverflowError, TypeError, ValueError)
"""Exceptions of a tap for collectors with which the kernel cannot work, such as too many."""


class Tapping:
    """The Tap of one response from `connection`. `full` is called if the caller takes no more.

    `is_offered`: a tap may have carried something since the latest `settle`.
    """

    __slots__ = (
        "_connection",
        "_cut",
        "_exchange",
        "_form",
        "_full",
        "_reader",
        "_tap",
        "is_offered",
    )

    def __init__(
        self,
        exchange: Exchange,
        connection: Connection,
        reader: EventReader | StreamReader,
        full: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._connection = connection
        self._reader = reader
        self._full = full
        self._tap: Tap | None = None
        self._form: Form = None
        self._cut: Cut | Strip | None = None
        self.is_offered = False

    @property
    def silent_for(self) -> float:
        """Seconds since a tap has taken a read; endless before any."""
        heard_at = self._tap.heard_at if self._tap is not None else 0.0
        return monotonic() - heard_at if heard_at else inf

    def offer(self) -> None:
        """Offer a tap to the connection if the next read may be one for it."""
        form = self._reader.form
        way = self._exchange.reply.way if form is not None else None
        if way is None:
            return
        kernel = self._exchange.chains.kernel
        if self._tap is not None and self._tap.heard_at:
            kernel.fallbacks[PART] += 1
        if form is not self._form:
            self._learn(form, kernel)
        if self._cut is None and form is not ANY_EVENTS:
            return
        tap = self._armed(kernel, way)
        if tap is not None:
            self.is_offered = True
            self._connection.offer(tap, kernel.functions)

    def _learn(self, form: Form, kernel: Kernel) -> None:
        self._form, self._cut = form, None
        if isinstance(form, Frame | AnyFrame):
            self._cut = form.cut(kernel.functions)
            if self._cut is None:
                kernel.fallbacks[PART] += 1
        elif not isinstance(form, AnyEvents):
            self._cut = form

    def _armed(self, kernel: Kernel, way: Callable[[bytes], bool]) -> Tap | None:
        tap = self._tap or self._made(kernel, way, self._exchange.observers.collectors())
        try:
            if tap is not None:
                tap.arm(self._cut)
        except COLLECTOR_ERRORS:  # so each collector's own `add` takes the chunks
            tap = self._made(kernel, way, None)
            if tap is not None:
                tap.arm(self._cut)
        return tap

    def _made(
        self, kernel: Kernel, way: Callable[[bytes], bool], collectors: Collectors | None
    ) -> Tap | None:
        """Make a tap that fills the collectors; None: it shows each chunk to the observers."""
        gathered, timed = collectors or ((), ())
        self._tap = kernel.functions.tap(
            way,
            self._full,
            self._connection.is_chunked,
            gathered,
            timed,
            self._exchange.observers.feed if collectors is None else None,
            self._exchange.reply.line,
        )
        return self._tap

    def settle(self) -> Settled | None:
        """Return what the tap did since it was offered, once all observers know of it."""
        if self._tap is None or not self.is_offered:
            return None
        self.is_offered = False
        return self._tap.settle()


def tapping_of(
    exchange: Exchange, source: object, reader: Reader | None, full: Callable[[], None]
) -> Tapping | None:
    """Return what lets the kernel carry this response; None if no kernel could."""
    if (
        exchange.chains.kernel.name == "python"
        or not isinstance(reader, EventReader | StreamReader)
        or not isinstance(source, Connection)
        or not source.tappable
    ):
        return None
    return Tapping(exchange, source, reader, full)
