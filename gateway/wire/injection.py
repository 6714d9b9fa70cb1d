"""Injection: request more from a worker than the caller did, and strip it from the response.

Workers send token ids, logprobs and the usage of a stream only on request. `inject` returns the
keys to set in the request; its Stripper removes their effect from the response. The result is what
the engine sends without the flags, byte for byte:

- `token_ids`, `prompt_token_ids` and `logprobs` become null or go, as their engine has them if not
  asked: see `gateway.wire.stripping`. All other bytes stay, spaces and numbers included.
- A token inside a character, or of a tool call's mark-up, has an id and a logprob but no content. A
  chat stream has an event with an empty delta for it only if ids or logprobs were requested.
- A generation from token ids (`/inference/v1/generate`) always has the sampled ids, and its events
  tell nothing of their own beside the usage: nothing is held back.
- The usage of a stream comes as one more event, with no choice or an empty one. What this event
  alone tells (`system_fingerprint` in vLLM, `timings` in llama.cpp) is on the event that finishes a
  choice if nobody requests the usage. So the events that finish a choice are held back until the
  usage has come, and events of other choices overtake them. An event that finishes a choice and has
  a usage itself stays as it is: engines that send this (transformers) do so unasked.

A value of another shape is taken out too, and text that is not even JSON loses what looks like one
of the fields; `Stripper.torn` then tells that the result is not the engine's.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from gateway.kernel import Kernel
from gateway.kernel.interface import Functions, Strip
from gateway.wire import injected_keys
from gateway.wire.dialect import Dialect, Engine
from gateway.wire.sse import DONE, Event, with_data
from gateway.wire.stripping.answer_text import (
    AnswerText,
    indices,
    is_empty,
    read_text,
    with_more,
)
from gateway.wire.stripping.any_frame import AnyFrame
from gateway.wire.stripping.exact_event import (
    ExactEvent,
    frame_of_event,
    is_usual,
    read_exact,
    says_nothing,
    take_out,
    told_with,
)
from gateway.wire.stripping.fast_strip import NULL as RAW_NULL
from gateway.wire.stripping.fast_strip import Choice, Frame, frame_of, strip_response
from gateway.wire.stripping.json_text import NULL, Edit, blanked, edited
from gateway.wire.stripping.places import OPENAI, Edits, Places, fields_at
from gateway.wire.stripping.sglang import MATCHED_STOP, SAYS_NOTHING
from gateway.wire.stripping.unasked import Unasked

Injection = injected_keys.Injection
Injected = injected_keys.Injected
INJECTIONS = injected_keys.INJECTIONS
NO_INJECTIONS = injected_keys.NO_INJECTIONS

MAX_FRAME_MISSES = 4
"""Number of frames in a row that may fail to match the next event before no more are computed."""

_EMPTY = frozenset((b"{}",))
_OF_USAGE = frozenset((b"choices", b"usage"))
_encode = msgspec.json.Encoder().encode


def inject(
    dialect: Dialect,
    body: Mapping[str, object],
    wanted: Collection[Injection],
    read: Callable[[], Mapping[str, object]] | None = None,
    engine: Engine | None = None,
) -> tuple[Injected, "Stripper | None"]:
    """Return what to set in the request `body`, and the Stripper of its effect.

    `read` returns the body, if `body` has only its keys, and its `stream` if that is true or false.
    `engine` is that of the worker if it has to be asked in a way of its own.

    Three kinds are not injected: fields that the caller requests itself; fields with an effect that
    cannot be stripped (with `echo`, ids and logprobs change a completion's text); and fields that
    would make valid a request that the worker rejects as it stands. If none remain, nothing is set
    and there is no Stripper.
    """
    found = injected_keys.injected_into(dialect, body, wanted, read, engine)
    if not found.injected:
        return found, None
    return found, Stripper(
        found.injected,
        drop_empty=not found.sees_tokens,
        places=dialect.places,
        in_sglext=found.in_sglext,
        kept=found.kept,
        engine=engine,
    )


class _Held(msgspec.Struct, frozen=True):
    """An event held back, as `text` and, if the quick way has read it, decoded."""

    event: Event
    text: bytes
    exact: ExactEvent | None = None


class Stripper:
    """Strips the effect of the injections `injected` from one response, plain or streamed.

    `places` are the fields at which they show. `drop_empty`: the caller requested neither ids nor
    logprobs, and would not have received an event that has nothing else. `in_sglext` and `kept` are
    those of Injected, `engine` is the one whose way of asking was taken. `torn`: some text was not
    even roughly JSON and seemed to have injected fields, so that the result is not what the engine
    would have sent.
    """

    __slots__ = (
        *("_drop_empty", "_ended", "_finished", "_frame", "_held", "_ids", "_in_answer"),
        *("_in_choice", "_in_sglext", "_kept", "_known", "_logprobs", "_looks", "_misses"),
        *("_omits_ids", "_places", "_sees", "_strip", "_unasked", "_undecided", "_unusual"),
        *("_usage", "engine", "injected", "torn"),
    )

    def __init__(
        self,
        injected: Collection[Injection],
        *,
        drop_empty: bool = True,
        places: Places = OPENAI,
        in_sglext: Sequence[str] = (),
        kept: Sequence[str] = (),
        engine: Engine | None = None,
    ) -> None:
        self.injected = frozenset(injected)
        self.engine = engine
        self.torn = False
        self._places = places
        self._in_answer = fields_at(places.in_answer, injected)
        self._in_choice = fields_at(places.in_choice, injected)
        self._in_sglext, self._kept = tuple(in_sglext), tuple(kept)
        self._ids, self._logprobs = "token_ids" in injected, "logprobs" in injected
        self._unasked: Unasked | None = None  # until the first event that the quick ways leave
        self._usage = "usage" in injected
        self._drop_empty = drop_empty
        self._frame: Frame | AnyFrame | None = None
        self._known = (False, False)  # the state of `_unasked` that the frame is for
        self._misses = 0
        self._held: list[_Held] = []
        self._finished: set[bytes] = set()  # choices with their last event held back
        self._strip: Strip | None = None
        # Whether the latest event was one that the quick ways leave.
        self._unusual = not places.as_chat
        self._ended = False
        self._omits_ids = False  # as SGLang does, see gateway.wire.stripping.unasked
        self._sees = places.as_chat and (self._ids or self._logprobs)
        self._looks, self._undecided = self._sees, False

    def look(self, data: bytes) -> None:
        """Look at the next bytes of a stream, until they show whether the quick ways apply."""
        if not self._looks:
            return
        self._omits_ids = data.find(MATCHED_STOP) >= 0
        ended = 0 <= data.rfind(b'"finish_reason"') < data.rfind(b"}]")
        self._looks = self._undecided = not (self._omits_ids or ended)

    def plain(self, body: bytes, kernel: Kernel | None = None) -> bytes:
        """Return a whole plain response as the caller is to receive it.

        `kernel` strips it if it can.
        """
        if not self._places.as_chat or (self._sees and body.find(MATCHED_STOP) >= 0):
            return self._any_plain(body)
        if kernel is not None:
            quick = kernel.functions.strip_answer(body, self._ids, self._logprobs)
            if quick is not None:
                return quick
            kernel.fallbacks["plain"] += 1
        cut = strip_response(body, self._in_answer, self._in_choice)
        return self._any_plain(body) if cut is None else cut

    def _any_plain(self, body: bytes) -> bytes:
        if self._places.edits is not None:
            return self._other(body, self._places.edits)
        answer = read_text(body)
        if answer is None:
            return self._blanked(body)
        edits = self._unasked_of(streams=False).edits(answer)
        return edited(body, edits) if edits else body

    def _other(self, text: bytes, edits: Edits) -> bytes:
        found = edits(text, self.injected)
        if found is None:
            return self._blanked(text)
        return edited(text, found) if found else text

    def _unasked_of(self, *, streams: bool) -> Unasked:
        return Unasked(
            self._in_answer,
            (*self._in_choice, *fields_at(self._places.renamed, self.injected)),
            streams=streams,
            omitted=streams and self._places.omitted,
            in_sglext=self._in_sglext,
            kept=self._kept,
        )

    def event(self, event: Event) -> bytes:
        """Return the bytes to send now; b"" if the event is dropped or held back."""
        data = event.data
        if data is None:
            return event.raw
        if data == DONE:
            return self.close() + event.raw
        self.look(data)
        held = self._holds()
        if self._frame is not None and not held:
            cut = self._frame.strip_one(event.raw)
            if cut is not None:
                self._misses = 0
                return cut
        quick = self._places.as_chat and not self._omits_ids
        cut = self._exact_event(event, data) if quick else None
        self._unusual = cut is None
        return self._any_event(event, data) if cut is None else cut

    def by(self, functions: Functions) -> Strip | None:
        """Return what a kernel strips the events to come with; None if it would leave the next.

        Events may be passed to the Strip or to this object, in their order.
        """
        if self._held or self._unusual or self._undecided or self._omits_ids:
            return None
        if self._strip is None:
            flags = self._ids, self._logprobs, self._usage, self._drop_empty
            self._strip = functions.strip(*flags)
        return self._strip

    def _holds(self) -> bool:
        """Whether events are held back, after taking over the one that a kernel holds."""
        held = self._strip.hand_back() if self._strip is not None else None
        if held is not None:
            self._ended = True
            if held:
                self._exact_event(Event(held, held[6:-2]), held[6:-2])
        return bool(self._held)

    @property
    def frame(self) -> Frame | AnyFrame | None:
        """The frame of the events so far, or None if there is none at present.

        Its `strip_one` strips one event as `event` does, and returns None for an event that must be
        decoded in full. It is valid until an event is passed to `event` or `strip_run`.
        """
        return self._frame if not self._holds() else None

    def strip_run(self, text: bytes) -> tuple[bytes, int]:
        """Strip the leading events of `text`; return the result and the number of bytes consumed.

        For several events that came in one read. Pass the rest of `text` to `event`.
        """
        if self._frame is None or self._holds():
            return b"", 0
        return self._frame.strip_run(text) or (b"", 0)

    def _exact_event(self, event: Event, data: bytes) -> bytes | None:
        """Strip an event of the usual form; None if `_any_event` has to."""
        if self._unasked is not None and any(self._unasked.state):
            return None
        exact = read_exact(event.raw, data)
        if exact is None:
            return None
        if self._usage and not exact.choices and exact.tells_usage_alone:
            return self._release_exact(exact)
        if self._held or (self._usage and exact.usage != RAW_NULL):
            return None
        match exact.choices:
            case [choice] if is_usual(choice, ids=self._ids, logprobs=self._logprobs):
                return self._exact_choice(event, exact, choice)
        return None

    def _exact_choice(self, event: Event, exact: ExactEvent, choice: Choice) -> bytes:
        """Strip an event of one choice, while none is held back."""
        finished = choice.finish_reason != RAW_NULL
        changes_more = self._ids and exact.prompt_token_ids != RAW_NULL
        if not (finished or changes_more) and self._misses < MAX_FRAME_MISSES:
            self._misses += 1
            self._frame = frame_of_event(exact, self._in_choice, drop_empty=self._drop_empty)
            self._known = (False, False)
        found = take_out(exact, choice, ids=self._ids, logprobs=self._logprobs)
        if found and self._drop_empty and says_nothing(choice):
            return b""
        text = _encode(exact) if found else event.data or b""
        if finished and self._usage:
            self._held.append(_Held(event, text, exact))
            self._finished.add(bytes(choice.index))
            self._ended = True
            return b""
        return b"data: %b\n\n" % text

    def _release_exact(self, usage: ExactEvent) -> bytes | None:
        exact = [one.exact for one in self._held if one.exact is not None]
        if len(exact) < len(self._held):
            return None
        self._held, self._finished = [], set()
        return b"".join([b"data: %b\n\n" % told_with(one, usage) for one in exact])

    def _any_event(self, event: Event, data: bytes) -> bytes:
        """Strip an event of any kind: the slow reference for the results of the quick ways."""
        if self._places.edits is not None:
            text = self._other(data, self._places.edits)
            return event.raw if text is data else with_data(event, text)
        if self._unasked is None:
            self._unasked = self._unasked_of(streams=True)
        unasked = self._unasked
        answer = read_text(data)
        if answer is None:
            return self.close() + self._torn_event(event, data)
        if self._usage and self._is_usage(answer):
            return self._release(self._moved(answer))
        edits = unasked.edits(answer)
        if self._frame is not None and unasked.state != self._known:
            self._frame = None
        if len(answer.choices) == 1 and self._misses < MAX_FRAME_MISSES and not self._omits_ids:
            self._learn(answer, unasked)
        # An event may overtake the held end of another choice, but not that of its own.
        late = self._held and not (answer.choices and self._finished.isdisjoint(indices(answer)))
        return (self.close() if late else b"") + self._choices(event, answer, edits)

    def _choices(self, event: Event, answer: AnswerText, edits: list[Edit]) -> bytes:
        if edits and self._was_added(answer):
            return b""
        text = edited(answer.text, edits) if edits else answer.text
        holds = self._usage and self._places.as_chat
        ends = holds and any(map(answer.is_finished, answer.choices))
        if ends and answer.of(answer.top, b"usage") == NULL:
            self._held.append(_Held(event, text))
            self._finished |= indices(answer)
            self._ended = True
            return b""
        return with_data(event, text) if edits else event.raw

    def _was_added(self, answer: AnswerText) -> bool:
        """Whether the event, which has injected fields, was sent only for them."""
        if not answer.choices:
            lost = self._unasked is not None and self._unasked.lost_sglext
            return lost and answer.of(answer.top, b"usage") == NULL
        return self._drop_empty and is_empty(answer, SAYS_NOTHING if self._omits_ids else _EMPTY)

    def _learn(self, answer: AnswerText, unasked: Unasked) -> None:
        [choice] = answer.choices
        if not answer.is_finished(choice) and unasked.has_frame(answer):
            self._misses += 1
            found = frame_of(answer, self._in_choice, unasked, drop_empty=self._drop_empty)
            if found is not None:
                self._frame, self._known = found, unasked.state

    def close(self) -> bytes:
        """Return the events held back for a usage event that did not come."""
        return self._release([]) if self._holds() else b""

    def _is_usage(self, answer: AnswerText) -> bool:
        """Whether the event is there for the usage alone.

        It has no choices, or choices without content after the end of one.
        """
        if answer.of(answer.top, b"usage") == NULL or answer.of(answer.top, b"error") != NULL:
            return False
        if not self._places.as_chat:
            return not answer.choices
        silent = all(map(answer.is_silent, answer.choices))
        return silent and (self._ended or not answer.choices)

    def _moved(self, usage: AnswerText) -> list[tuple[bytes, bytes]]:
        """Return what the usage event alone tells beside the usage: the engine's last words."""
        kept_back = _OF_USAGE.union(name.encode() for name in self._in_answer)
        told = ((one.key, usage.value(one)) for one in usage.top)
        return [(key, value) for key, value in told if key not in kept_back and value != NULL]

    def _release(self, moved: Sequence[tuple[bytes, bytes]]) -> bytes:
        held, self._held, self._finished = self._held, [], set()
        return b"".join([with_data(one.event, with_more(one.text, moved)) for one in held])

    def _torn_event(self, event: Event, data: bytes) -> bytes:
        text = self._blanked(data)
        return event.raw if text is data else with_data(event, text)

    def _blanked(self, text: bytes) -> bytes:
        found = blanked(text, (*self._in_answer, *self._in_choice))
        self.torn = self.torn or found is not text
        return found
