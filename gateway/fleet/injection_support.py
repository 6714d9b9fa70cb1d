"""Which injections a worker rejects, learned from its answers.

An engine that does not know `return_token_ids` may answer 400 or 422 and name the field. Its error
text alone proves nothing, because a caller's own mistake can quote the request. The gateway retries
once without the named fields; only if that attempt succeeds did the injection cause the error.

What is learned holds for the model and for the kind of request: llama.cpp takes `logprobs`, tools
and a stream in twos and rejects all three together, and one client with an odd request must not end
injection for all others. It holds for RETRY_AFTER seconds, as the engine may be replaced by one
that knows more.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import msgspec

from gateway.wire.dialect import Engine
from gateway.wire.injected_keys import (
    INJECTIONS,
    NO_INJECTIONS,
    Injection,
    fields_of,
    listed,
)

log = logging.getLogger("gateway")

RETRY_AFTER = 600.0
"""Seconds after which an injection that a worker has rejected is tried again."""

MAX_KINDS = 256
"""Maximum number of kinds of requests that are remembered of one worker; callers choose them."""

MAX_TRAITS = 24
MAX_TRAIT_LENGTH = 40
MAX_MODEL_LENGTH = 128

ANY_VALUE = frozenset(
    (
        *("model", "messages", "max_tokens", "max_completion_tokens", "min_tokens", "seed", "user"),
        *("temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "metadata"),
        *("frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias"),
    )
)
"""Fields of a request that make no kind of their own: no engine's support depends on them."""

SGLANG: Engine = "sglang"

_ALL: frozenset[Injection] = frozenset(INJECTIONS)


class Kind(msgspec.Struct, frozen=True):
    """Requests that a worker treats alike: those with the same `traits` are one kind.

    A trait is the name of a field that is set, with the form of its value if it is not the usual
    one: `stream`, `stream=text`, `n>1`, `tools`.
    """

    dialect: str
    model: str
    traits: tuple[str, ...]


class RefusedInjections(msgspec.Struct, frozen=True):
    """What a worker rejects in one kind of request, for operators to see.

    `fields` are the request fields that are left out, `request` is what such requests have set;
    after `until` (Unix time) they are tried again.
    """

    dialect: str
    model: str
    request: list[str]
    fields: list[str]
    until: float


class _Learned(msgspec.Struct):
    """`refused` are left out until `until`; `doubted` were rejected once, though accepted before.

    `until` is never before the latest rejection.
    """

    refused: frozenset[Injection] = NO_INJECTIONS
    doubted: frozenset[Injection] = NO_INJECTIONS
    until: float = 0.0


class ScaleOut:
    """Whether a worker has told that it lacks what vLLM serves only with `--enable-scale-out`.

    An engine that comes back with it is known by its first generation from token ids.
    """

    HINT = (
        "it serves neither /inference/v1/generate nor render and derender: start vLLM with "
        "--enable-scale-out"
    )

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._lacking = self._told = False

    def note_lacking(self) -> None:
        """Note the engine's 403; the log tells it once."""
        self._lacking = True
        if not self._told:
            self._told = True
            log.warning("worker %s: %s", self._worker, self.HINT)

    def note_served(self) -> None:
        self._lacking = False

    def hints(self) -> list[str]:
        return [self.HINT] if self._lacking else []


class KnownEngine:
    """Which engine a worker is, if it is one that has to be asked for token ids in its own way.

    Known by its settings, by the owner of the models that it lists, or by what it says of a request
    in the usual way: this holds for RETRY_AFTER seconds, or until its models have another owner.
    """

    __slots__ = ("_clock", "_owner", "_set", "_until")

    def __init__(
        self, engine: Engine | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`engine` is that of the settings."""
        self._set = engine
        self._clock = clock
        self._owner = ""
        self._until = float("-inf")

    def now(self) -> Engine | None:
        if self._set is not None or self._owner == SGLANG or self._clock() < self._until:
            return SGLANG
        return None

    def note_owner(self, owner: str) -> None:
        """Note the `owned_by` of its list of models, "" if the list has none."""
        if owner != self._owner:
            self._owner, self._until = owner, float("-inf")

    def note_refusal(self) -> None:
        """Note that it has rejected the usual way in the words of SGLang."""
        self._until = self._clock() + RETRY_AFTER


class Refusals:
    """The injections that one worker rejects, by kind of request; `engine` is which one it is.

    `clock` returns monotonic seconds.
    """

    __slots__ = ("_accepted", "_clock", "_inject", "_learned", "_purge_at", "_worker", "engine")

    def __init__(
        self,
        worker: str,
        *,
        inject: bool,
        engine: Engine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """If `inject` is False, nothing is ever injected. `engine` is that of the settings."""
        self.engine = KnownEngine(engine, clock)
        self._worker = worker
        self._inject = inject
        self._clock = clock
        self._learned: OrderedDict[Kind, _Learned] = OrderedDict()
        self._accepted: dict[str, frozenset[Injection]] = {}
        self._purge_at = 0.0

    def of(self, dialect: str, request: Callable[[], Mapping[str, object]]) -> frozenset[Injection]:
        """Injections to leave out of such a request of `dialect`.

        `request` returns the call's request, and is called only if it matters.
        """
        if not self._learned:
            return NO_INJECTIONS if self._inject else _ALL
        now = self._clock()
        if now >= self._purge_at:
            self._purge(now)
        known = self._learned.get(kind_of(dialect, request()))
        return NO_INJECTIONS if known is None or now >= known.until else known.refused

    def learn(
        self,
        dialect: str,
        request: Callable[[], Mapping[str, object]],
        taken: frozenset[Injection],
        left_out: frozenset[Injection],
    ) -> None:
        """Record a response without error to a call with `taken`; with `left_out` it had failed.

        `request` returns the call's request, and is called only if it matters.
        """
        accepted = self._accepted.get(dialect, NO_INJECTIONS)
        if not taken <= accepted:
            self._accepted[dialect] = accepted = accepted | taken
        if self._inject and (left_out or self._learned):
            kind = kind_of(dialect, request())
            if taken:
                self._forgive(kind, taken)
            if left_out:
                self._refuse(kind, left_out, accepted)

    def _forgive(self, kind: Kind, taken: frozenset[Injection]) -> None:
        known = self._learned.get(kind)
        if known is not None:
            known.doubted -= taken
            if self._clock() >= known.until:
                known.refused -= taken
                if not (known.refused or known.doubted):
                    del self._learned[kind]

    def _refuse(
        self, kind: Kind, left_out: frozenset[Injection], accepted: frozenset[Injection]
    ) -> None:
        """Leave out what was rejected; what was accepted elsewhere only at the second time."""
        known = self._learned.setdefault(kind, _Learned())
        self._learned.move_to_end(kind)
        proven = left_out - (accepted - known.doubted - known.refused)
        known.doubted = (known.doubted | left_out) - proven
        known.until = max(known.until, self._clock())
        if proven:
            self._tell(kind, proven - known.refused)
            known.refused |= proven
            known.until = self._clock() + RETRY_AFTER
        while len(self._learned) > MAX_KINDS:
            self._learned.popitem(last=False)

    def _purge(self, now: float) -> None:
        """Forget the kinds that have not been seen again for long."""
        self._purge_at = now + RETRY_AFTER
        old = [kind for kind, one in self._learned.items() if now >= one.until + RETRY_AFTER]
        for kind in old:
            del self._learned[kind]

    def _tell(self, kind: Kind, new: frozenset[Injection]) -> None:
        if not new or any(
            new <= one.refused for other, one in self._learned.items() if _alike(other, kind)
        ):
            return
        log.warning(
            "worker %s refuses %s in %s calls like this one (%s); they are sent without, and what "
            "that would have told is missing from traces",
            self._worker,
            listed(new),
            kind.dialect,
            ", ".join(kind.traits) or "plain",
        )

    def __len__(self) -> int:
        """Number of kinds of requests that something is left out of now."""
        now = self._clock()
        return sum(bool(one.refused) and now < one.until for one in self._learned.values())

    def all(self) -> Iterator[RefusedInjections]:
        """Yield what is left out now."""
        now, wall = self._clock(), time.time()
        for kind, one in self._learned.items():
            if one.refused and now < one.until:
                yield RefusedInjections(
                    kind.dialect,
                    kind.model,
                    list(kind.traits),
                    fields_of(one.refused),
                    wall + one.until - now,
                )


def kind_of(dialect: str, request: Mapping[str, object]) -> Kind:
    """Return the kind of a request. Its size is bounded, whatever the caller sent."""
    traits = sorted(
        {
            f"{name[:MAX_TRAIT_LENGTH]}{form}"
            for name, value in request.items()
            if name not in ANY_VALUE and (form := _form(value)) is not None
        }
    )
    if len(traits) > MAX_TRAITS:
        traits = [*traits[:MAX_TRAITS], "..."]
    model = request.get("model")
    named = model[:MAX_MODEL_LENGTH] if isinstance(model, str) else ""
    return Kind(dialect, named, tuple(traits))


def _form(value: object) -> str | None:
    """Return what tells the form of a field's value; None if the field counts as not set."""
    if value is None or value is False or value == [] or value == {}:
        return None
    if value is True or isinstance(value, dict | list):
        return ""
    if isinstance(value, str):
        return "=text"
    if isinstance(value, int | float) and value in (0, 1):
        return f"={value:g}"
    return ">1"


def _alike(one: Kind, other: Kind) -> bool:
    return one.dialect == other.dialect and one.model == other.model
