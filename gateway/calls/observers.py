"""The observers of one call: which methods each of them has, and isolation of those that fail."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from gateway.calls.body import Body
from gateway.calls.records import Outcome
from gateway.calls.token_count import TokenCounter
from gateway.headers import PLAIN, Headers, get_header
from gateway.kernel import reference
from gateway.kernel.interface import Functions
from gateway.telemetry.collectors import Gaps, Gathered, Gatherer
from gateway.wire.dialect import Delta
from gateway.wire.sse import Event

Entry = tuple[str, Callable[..., None]]
"""(plugin, bound method)"""

Methods = tuple[Entry, ...]
"""In the order of the configuration file."""

NO_METHODS: Methods = ()

METHODS = frozenset({"started", "data", "event", "delta", "finished"})

Collectors = tuple[tuple[Gatherer, ...], tuple[Gaps, ...]]
"""What gathers chunks, and what times events."""

LogExtra = Callable[[], dict[str, str]]
"""Returns `extra` for a log record, see Call.log_extra."""

ReportFailure = Callable[[str, str, Outcome, BaseException, LogExtra], None]
"""Called on a failure: the plugin, what broke, the call's outcome, the exception."""


class Observers:
    """The observers that the `observe` hooks returned for one call, and its token counter, if any.

    Each public tuple holds the bound methods that the observers have; an empty tuple costs nothing.
    `data` has the `add` of each collector, too. A method that raises is removed, because its record
    can no longer be complete. `report` is called with each failure, and with `outcome` and
    `log_extra`; `functions` are those of the kernel. `counts_tokens`: each response gets a
    `counter`, which sees its data; None before, and for a response that has no tokens to count.

    These are also the Reader (see gateway.pipeline.readers) of a response that only passes them.
    """

    # No reference to the call, which refers to its observers: only the garbage collector would
    # free a call in a cycle.
    __slots__ = (
        "_functions",
        "_log_extra",
        "_outcome",
        "_report",
        "counter",
        "counts_tokens",
        "data",
        "delta",
        "event",
        "finished",
        "started",
    )

    rewrites = False

    def __init__(
        self,
        observers: Sequence[tuple[str, object]],
        report: ReportFailure,
        outcome: Outcome,
        log_extra: LogExtra,
        *,
        counts_tokens: bool = False,
        functions: Functions = reference,
    ) -> None:
        self._report = report
        self._functions = functions
        self._outcome = outcome
        self._log_extra = log_extra
        self.counter: TokenCounter | None = None
        self.counts_tokens = counts_tokens
        self.started: Methods = NO_METHODS
        self.data: Methods = NO_METHODS
        self.event: Methods = NO_METHODS
        self.delta: Methods = NO_METHODS
        self.finished: Methods = NO_METHODS
        for plugin, observer in observers:
            self._add(plugin, observer)

    def _add(self, plugin: str, observer: object) -> None:
        try:
            for collector in getattr(observer, "collectors", ()):
                self.data = (*self.data, (plugin, collector.add))
        except Exception as error:  # noqa: BLE001  an observer must not harm the call
            self._fail(plugin, "observer.collectors", error)
        kind: type = type(observer)
        for name in _methods(observer) if kind.__dictoffset__ else _of_class(kind):
            setattr(self, name, (*getattr(self, name), (plugin, getattr(observer, name))))

    @property
    def tokens_so_far(self) -> int:
        return 0 if self.counter is None else self.counter.so_far

    @property
    def needs_body(self) -> bool:
        """Whether `delta`, `event` or the counter needs more of the response than its raw bytes."""
        return bool(self.delta or self.event or self.counts_tokens)

    def collectors(self) -> Collectors | None:
        """Return all that `feed` adds to, what gathers and what times; None if it does more.

        An observer that has a method `data` is not only a collector.
        """
        gathered: tuple[Gatherer, ...] = () if self.counter is None else (self.counter,)
        timed: tuple[Gaps, ...] = ()
        for _, add in self.data:
            owner = getattr(add, "__self__", None)
            if type(owner) is Gathered:  # no subclass, whose `add` may do more
                gathered += (owner,)
            elif type(owner) is Gaps:
                timed += (owner,)
            else:
                return None
        return gathered, timed

    def notify_started(self, status: int, headers: Headers, *, events: bool) -> None:
        """Show the head of a response; one that began before, of another worker, has failed."""
        if self.counts_tokens:
            readable = 200 <= status < 300 and get_header(headers, b"content-encoding") in PLAIN
            self.counter = TokenCounter(events) if readable else None
        if self.started:
            self.started = self._notify(self.started, "started", status, headers)

    def feed(self, chunk: bytes) -> bytes:
        """Show a chunk of the response, and return it."""
        if self.counter is not None:
            try:
                self.counter.add(chunk)
            except Exception as error:  # noqa: BLE001  as below
                self._give_up_counting(error)
        for entry in self.data:  # once per read of a stream, so without the cost of _notify
            try:
                entry[1](chunk)
            except Exception as error:  # noqa: BLE001  as below
                self.data = self._without(self.data, entry, "data", error)
        return chunk

    def close(self) -> bytes:
        return b""

    def notify_event(self, event: Event) -> None:
        self.event = self._notify(self.event, "event", event)

    def notify_delta(self, delta: Delta) -> None:
        self.delta = self._notify(self.delta, "delta", delta)

    def notify_finished(self, request: Body) -> None:
        """Complete the outcome with the usage, then call `finished`; `request` is the call's."""
        outcome = self._outcome
        # It may be known already, if the response was parsed for a `delta` observer; the counter
        # also knows what is wrong with it.
        if self.counter is not None:
            try:
                outcome.usage = self.counter.usage(request, self._functions) or outcome.usage
            except Exception as error:  # noqa: BLE001  as below
                self._give_up_counting(error)
        if self.finished:
            self._notify(self.finished, "finished", outcome)

    def _give_up_counting(self, error: Exception) -> None:
        self.counter, self.counts_tokens = None, False
        self._fail("core", "count_tokens", error)

    def _notify(self, methods: Methods, name: str, *arguments: Any) -> Methods:
        """Call the methods; return those that did not raise."""
        whole = methods
        for entry in methods:
            try:
                entry[1](*arguments)
            except Exception as error:  # noqa: BLE001  an observer must not harm the call
                whole = self._without(whole, entry, name, error)
        return whole

    def _without(self, methods: Methods, broken: Entry, name: str, error: Exception) -> Methods:
        self._fail(broken[0], f"observer.{name}", error)
        return tuple(entry for entry in methods if entry != broken)

    def _fail(self, plugin: str, what: str, error: Exception) -> None:
        self._report(plugin, what, self._outcome, error, self._log_extra)


def _methods(observer: object) -> Sequence[str]:
    """Names of the methods that `observer` has; cached per class unless the instance sets any."""
    own = getattr(observer, "__dict__", None)
    if own and not METHODS.isdisjoint(own):
        return [name for name in METHODS if callable(getattr(observer, name, None))]
    kind: type = type(observer)
    return _of_class(kind)


@lru_cache(maxsize=256)
def _of_class(kind: type) -> Sequence[str]:
    return tuple(name for name in METHODS if callable(getattr(kind, name, None)))


UNOBSERVED = Observers((), lambda *_: None, Outcome(), dict)
"""Shared by the calls that nobody observes."""
