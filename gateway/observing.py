"""The observers of one call: which of their methods exist, and that a broken one harms nobody."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gateway.counting import TokenCounter

if TYPE_CHECKING:
    from gateway.call import Call, Outcome
    from gateway.headers import Headers
    from gateway.wire.dialects import Delta
    from gateway.wire.sse import Event

Entry = tuple[str, Callable[..., None]]
"""(plugin, bound method)"""

Methods = tuple[Entry, ...]
"""In the order of the configuration file."""

NONE: Methods = ()

METHODS = frozenset({"started", "data", "event", "delta", "finished"})

Note = Callable[[str, str, "Outcome", BaseException, str], None]
"""Told of a failure: the plugin, what broke, the call's outcome, the exception, the call's id."""


class Observers:
    """What the `observe` hooks gave for one call, and what counts its tokens where that is asked.

    Public tuples hold the bound methods that the observers really have; an empty one costs nothing.
    `counter` sees what goes to `started` and `data`.
    A method that raises is taken out, for what it records can no longer be whole. Without a call
    there are none.
    """

    # Not the call, which has its observers: a call in a cycle would be left to the collector.
    __slots__ = (
        "_call_id",
        "_note",
        "_outcome",
        "counter",
        "data",
        "delta",
        "event",
        "finished",
        "started",
    )

    def __init__(
        self, observers: Sequence[tuple[str, object]], note: Note, call: "Call | None"
    ) -> None:
        self._note = note
        self._outcome = None if call is None else call.outcome
        self._call_id = "" if call is None else call.id
        counts = call is not None and call.counts_tokens
        self.counter = TokenCounter() if counts else None
        self.started = self.data = self.event = self.delta = self.finished = NONE
        for plugin, observer in observers:
            for name in _methods(observer):
                setattr(self, name, (*getattr(self, name), (plugin, getattr(observer, name))))

    @property
    def tokens_so_far(self) -> int:
        return 0 if self.counter is None else self.counter.so_far

    @property
    def read_the_answer(self) -> bool:
        """Whether any of them needs more of it than its bytes."""
        return bool(self.delta or self.event or self.counter)

    def tell_started(self, status: int, headers: "Headers", *, events: bool) -> None:
        if self.counter is not None:
            self.counter.started(status, headers, events=events)
        self.started = self._tell(self.started, "started", status, headers)

    def tell_data(self, chunk: bytes) -> None:
        if self.counter is not None:
            try:
                self.counter.data(chunk)
            except Exception as error:  # noqa: BLE001  as below
                self._give_up_counting(error)
        for entry in self.data:  # once for each read of a stream, so not by way of _tell
            try:
                entry[1](chunk)
            except Exception as error:  # noqa: BLE001  as below
                self.data = self._without(self.data, entry, "data", error)

    def tell_event(self, event: "Event") -> None:
        self.event = self._tell(self.event, "event", event)

    def tell_delta(self, delta: "Delta") -> None:
        self.delta = self._tell(self.delta, "delta", delta)

    def tell_finished(self, call: "Call") -> None:
        # A `delta` may have had the answer read, and so its usage known.
        if self.counter is not None and call.outcome.usage is None:
            try:
                call.outcome.usage = self.counter.usage(call)
            except Exception as error:  # noqa: BLE001  as below
                self._give_up_counting(error)
        if self.finished:
            self._tell(self.finished, "finished", call.outcome)

    def _give_up_counting(self, error: Exception) -> None:
        self.counter = None
        self._say("core", "count_tokens", error)

    def _tell(self, methods: Methods, name: str, *arguments: Any) -> Methods:
        """The methods that are still whole."""
        whole = methods
        for entry in methods:
            try:
                entry[1](*arguments)
            except Exception as error:  # noqa: BLE001  a watcher's failure is never the caller's
                whole = self._without(whole, entry, name, error)
        return whole

    def _without(self, methods: Methods, broken: Entry, name: str, error: Exception) -> Methods:
        self._say(broken[0], f"observer.{name}", error)
        return tuple(entry for entry in methods if entry != broken)

    def _say(self, plugin: str, what: str, error: Exception) -> None:
        if self._outcome is not None:
            self._note(plugin, what, self._outcome, error, self._call_id)


def _methods(observer: object) -> Sequence[str]:
    """Those that it really has; what most have of their class is looked up once for the class."""
    own = getattr(observer, "__dict__", None)
    if own and not METHODS.isdisjoint(own):
        return [name for name in METHODS if callable(getattr(observer, name, None))]
    kind: type = type(observer)
    return _of_class(kind)


@lru_cache(maxsize=256)
def _of_class(kind: type) -> Sequence[str]:
    return tuple(name for name in METHODS if callable(getattr(kind, name, None)))


UNOBSERVED = Observers((), lambda *_: None, None)
"""Shared by the calls that nobody observes."""
