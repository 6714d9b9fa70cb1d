"""The functions and types of any kernel, native or in Python; None stands for "left to you"."""

from collections.abc import Callable, Sequence, Set
from typing import Any, Protocol

ReadPart = tuple[int, bytes, bytes, bytes, bytes | None, bytes, str | None, list[Any], bool]
"""Index, prompt token ids and token ids (int32), logprobs (float32, NaN for null), the tokens'
texts as MessagePack, the JSON of what is in none of these, finish reason, doubts, and whether all
logprobs are logarithms of probabilities.
"""

ReadAnswer = tuple[
    bytes,
    str,
    str,
    tuple[ReadPart, ...],
    bytes | None,
    int | None,
    int | None,
    bytes | None,
    bool,
    int,
    bool,
]
"""Skeleton, id, model, parts, usage as JSON, tokens of prompt and completion, the fields of the
answer that may have a version of weights as JSON, whether a stream has ended, the number of its
events, and whether the two numbers of tokens are sure.
"""

Lines = list[tuple[bytes, bytes]]
"""The lines of a head, names in lower case."""

ReadRequest = tuple[tuple[str, str, bytes], Lines, bytes]
"""Method, path and query; the lines; the body."""

ReadResponse = tuple[int, Lines, bytes]
"""Status, lines, body."""

Settled = tuple[int, bytes, tuple[bytes, ...]]
"""What a Tap did: the bytes sent, how many and the last ones; and its latest reads, up to four."""


Field = None | bool | int | str | tuple[int, ...]
"""A field of a request, with its value if that is short: null, true, false, an integer of at most
18 digits (-0 is none), a string of at most 254 bytes without escapes.

Of another value these are the place where it begins and the one after its end, in bytes of the
whole text. Of a list, those of its first two items follow, or of the items that it has.
"""

Fields = dict[str, Field]
"""The top-level fields of a request by name, in their order."""


Line = tuple[Callable[[bytes], object], bool, object, object]
"""The `write` of a transport, whether it gets HTTP chunks, an object whose `write_paused` tells
that nothing more should be written, and one whose `disconnected` tells that nothing can be.
"""


class Cut(Protocol):
    """Takes injected fields out of the events of one frame, as `fast_strip.Frame` does."""

    def strip(self, text: bytes) -> bytes | None:
        """Strip the events that `text` consists of; None: they are left to the Python code."""

    def strip_run(self, text: bytes) -> tuple[bytes, int] | None:
        """Strip the leading events of `text`; return the result and the number of bytes consumed.

        None: the first one is left.
        """


class Strip(Protocol):
    """Strips the events of one stream as `injection.Stripper` does, those of the usual form.

    It may hold one event back.
    """

    def strip_run(self, text: bytes) -> tuple[bytes, int] | None:
        """As Cut.strip_run. What is held back is in neither the result nor the rest."""

    def hand_back(self) -> bytes | None:
        """Return the event that is held back, which is no longer.

        Without one: b"" if there was one since this was called last, else None.
        """


class Tap(Protocol):
    """Carries the reads of a stream from a worker's connection to the caller, each in one call.

    Each read is taken or left as a whole: HTTP chunks that are not whole are left, and events that
    the Cut or the Strip leaves. `heard_at`: the time (`time.monotonic`) of the latest read that was
    taken, 0 before any.
    """

    @property
    def heard_at(self) -> float: ...

    def arm(self, cut: Cut | Strip | None) -> None:
        """Take reads from now on, whose events `cut` strips; None: any whole events, as they are.

        What the collectors have by now counts.
        """

    def take(self, data: bytes) -> bool:
        """Carry a read; False if it is left: nothing has been done about it."""

    def settle(self) -> Settled | None:
        """Stop, tell the collectors, and return what was done since `arm`; None: nothing."""


class Functions(Protocol):
    """The functions and types of a kernel: the module `reference` or the module `_native`.

    `BUILT` says how it was made, `SOURCES` from which sources: see `digest` in `build.py`.
    """

    BUILT: str
    SOURCES: str

    def read_answer(self, body: bytes, chat: bool, streamed: bool, /) -> ReadAnswer | None:
        """Take apart an answer of chat or, if not `chat`, of completions, without the GIL."""

    def strip_answer(self, body: bytes, ids: bool, logprobs: bool, /) -> bytes | None:
        """Return a whole plain answer without injected ids and logprobs, `body` if it has none."""

    def read_fields(self, body: bytes, /) -> Fields | None:
        """Return the fields of a JSON object that msgspec certainly decodes, whatever is in it.

        No field is there twice.
        """

    def read_request(self, data: bytes, max_head: int, /) -> ReadRequest | None:
        """Read a whole GET or POST of HTTP/1.1 after which the connection stays, and no more.

        Its body has a length. `max_head`: bytes of the longest head that is taken.
        """

    def read_response(self, data: bytes, max_head: int, max_lines: int, /) -> ReadResponse | None:
        """Read a whole final response of HTTP/1.1 after which the connection stays, and no more.

        Its body has a length. Longer heads than `max_head` bytes or `max_lines` are left.
        """

    def join_lines(
        self,
        before: bytes,
        lines: Sequence[tuple[bytes, bytes]],
        dropped: Set[bytes],
        after: bytes,
        /,
    ) -> bytes | None:
        """Return `before`, the lines but those of `dropped` names, and `after`.

        Left if a dropped `connection` names other lines.
        """

    def read_usage(self, text: bytes, /) -> tuple[int, int, int, int] | None:
        """Return the tokens that a plain response or an event reports, all told and beyond doubt.

        Those of the prompt, of the completion, and of each the cached and the reasoning ones.
        """

    def cut(
        self,
        before: bytes,
        after: bytes,
        keys: tuple[bytes, ...],
        ids: bool,
        logprobs: bool,
        drop_empty: bool,
        through: bool,
        /,
    ) -> Cut | None:
        """Return the Cut of events that are `before`, a choice and `after`.

        `keys` are those of a choice in their order. `through`: nothing is to be taken out.
        """

    def strip(self, ids: bool, logprobs: bool, usage: bool, drop_empty: bool, /) -> Strip | None:
        """Return the Strip of a stream for which the given fields were injected."""

    def tap(
        self,
        write: Callable[[bytes], bool],
        full: Callable[[], None],
        chunked: bool,
        gathered: tuple[Any, ...],
        timed: tuple[Any, ...],
        notify: Callable[[bytes], object] | None,
        line: Line | None,
        /,
    ) -> Tap | None:
        """Return a Tap that sends with `write`, and calls `full` when that returns False.

        It does itself by the `line`, if given, what `write` would do.

        `chunked`: the reads are HTTP chunks. `gathered` and `timed` are collectors like those of
        gateway.telemetry.collectors. `notify`, if given, is called with each chunk in their place.
        """

    def is_chunks(self, text: bytes, pieces: list[bytes]) -> bool:
        """Whether `text` is certainly whole HTTP chunks; `pieces` are what a parser found in it."""
