"""Sequences: the tokens that the engine samples one by one, and the end of each sequence."""

from collections.abc import Iterable, Sequence
from random import Random

import msgspec

from gateway.simulator.engine.model import Context, Distribution, certain
from gateway.simulator.engine.sampler import Sampling, sample
from gateway.simulator.engine.tokens import EOS, Detokenizer, piece_text


class Alternative(msgspec.Struct, frozen=True, gc=False):
    """A token at one position: its logprob, its rank (1 is the likeliest) and its text there."""

    id: int
    logprob: float
    rank: int
    text: str


class Token(msgspec.Struct, frozen=True, gc=False):
    """A sampled token; `alternatives` begins with the token itself, empty without logprobs."""

    id: int
    alternatives: tuple[Alternative, ...] = ()


class Span(msgspec.Struct):
    """The tokens from `start` until before `end`, all sampled with weights of `version`."""

    version: str
    start: int
    end: int


class Delta(msgspec.Struct, gc=False):
    """Output that one or several steps added to choice `index`.

    `text` is the newly visible text, which may lag behind the tokens. `finish_reason` is None until
    the sequence ends; `stop_reason` is the stop string or stop token that ended it. `spans` covers
    all tokens of the sequence once it has ended.
    """

    index: int
    text: str
    tokens: list[Token]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    spans: tuple[Span, ...] = ()


def merged(deltas: Sequence[Delta]) -> Delta:
    """Merge several consecutive deltas of one sequence into one."""
    last = deltas[-1]
    if len(deltas) == 1:
        return last
    return Delta(
        last.index,
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.tokens],
        last.finish_reason,
        last.stop_reason,
        last.spans,
    )


def alternatives(
    number: int, distribution: Distribution, count: int, held: bytes
) -> tuple[Alternative, ...]:
    """Return `number` and the `count` likeliest tokens, none of them twice."""
    first = (number, distribution.logprob(number), distribution.rank(number))
    best = [
        (other, logprob, rank)
        for rank, (other, logprob) in enumerate(distribution.top(count), start=1)
        if other != number
    ]
    return tuple(
        Alternative(other, logprob, rank, piece_text(other, held))
        for other, logprob, rank in (first, *best)
    )


def score(ids: Iterable[int], count: int) -> list[tuple[Alternative, ...] | None]:
    """Return logprobs of each of `ids` given those before it; None for the first."""
    context, detokenizer = Context(), Detokenizer()
    scores: list[tuple[Alternative, ...] | None] = []
    for number in ids:
        held = detokenizer.held
        seen = alternatives(number, context.next(), count, held) if scores else None
        scores.append(seen)
        context.read(number)
        detokenizer.add(number)
    return scores


class Generation:
    """One sequence; call `step` until it is `finished`.

    `script` is text that structured output forces on the model, as ids; after it the model
    continues freely. `chance` decides everything random, so equal ones give equal sequences.
    """

    def __init__(
        self,
        index: int,
        context: Context,
        sampling: Sampling,
        chance: Random,
        script: Iterable[int] = (),
    ) -> None:
        self.index = index
        self.count = 0
        self.finished = False
        self._context = context
        self._sampling = sampling
        self._chance = chance
        self._script = iter(script)
        self._detokenizer = Detokenizer()
        self._text = _Visible(sampling.stop, sampling.include_stop)
        self._weights = ""
        self._version = ""
        self._spans: list[Span] = []
        self.aborted = False

    def use(self, weights: str, version: str = "default") -> None:
        """Sample with `weights` from now on; "" is the weights that the engine was started with."""
        self._version = version
        if weights != self._weights:
            self._weights = weights
            self._context.salt(weights)

    def step(self) -> Delta:
        """Sample one token; none if the sequence is aborted, which ends it."""
        if self._must_abort():
            self.finished = True
            text = self._text.show(everything=True)
            return Delta(self.index, text, [], "abort", None, tuple(self._spans))
        number, distribution = self._choose()
        token = self._report(number, distribution)
        self._context.read(number)
        self.count += 1
        finish, stop = self._end(number)
        hidden = finish == "stop" and not self._sampling.include_stop
        fresh = "" if hidden else self._detokenizer.add(number)
        found = self._text.add(fresh, self.count > self._sampling.min_tokens)
        if found is not None and finish != "stop":
            finish, stop = "stop", found
        self.finished = finish is not None
        self._extend_span()
        spans = tuple(self._spans) if self.finished else ()
        return Delta(self.index, self._text.show(self.finished), [token], finish, stop, spans)

    def _must_abort(self) -> bool:
        cut_at = self._sampling.abort_after
        return self.aborted or (cut_at is not None and self.count >= cut_at)

    def _extend_span(self) -> None:
        if not self._spans or self._spans[-1].version != self._version:
            self._spans.append(Span(self._version, self.count - 1, self.count))
        self._spans[-1].end = self.count

    def _choose(self) -> tuple[int, Distribution]:
        forced = next(self._script, None)
        if forced is not None:
            doubt = 0.4 * (self._context.digest[0] / 255) ** 3
            return forced, certain(forced, 0.9999 - doubt)
        distribution = self._context.next()
        return sample(distribution, self._sampling, self._banned(), self._chance), distribution

    def _banned(self) -> frozenset[int]:
        if self.count >= self._sampling.min_tokens:
            return frozenset()
        return self._sampling.stop_token_ids | {EOS}

    def _report(self, number: int, distribution: Distribution) -> Token:
        count = self._sampling.logprobs
        if count is None:
            return Token(number)
        return Token(number, alternatives(number, distribution, count, self._detokenizer.held))

    def _end(self, number: int) -> tuple[str | None, int | str | None]:
        sampling = self._sampling
        if self.count >= sampling.min_tokens:
            if number == EOS and not sampling.ignore_eos:
                return "stop", None
            if number in sampling.stop_token_ids:
                return "stop", number
        return ("length", None) if self.count >= sampling.max_tokens else (None, None)


class _Visible:
    """The text of a sequence: finds stop strings, and tracks the part that may be shown."""

    def __init__(self, stop: tuple[str, ...], include_stop: bool) -> None:
        self._stop = stop
        self._include_stop = include_stop
        self._text = ""
        self._shown = 0
        # A possible beginning of a stop string is not shown until it turns out not to be one.
        self._held = 0 if include_stop or not stop else max(map(len, stop)) - 1

    def add(self, fresh: str, may_stop: bool) -> str | None:
        """Add text; return the stop string that `fresh` completes, if any.

        The text then ends with the stop string or before it.
        """
        self._text += fresh
        if not fresh or not may_stop:
            return None
        for stop in self._stop:
            found = self._text.find(stop, max(0, len(self._text) - len(fresh) - len(stop) + 1))
            if found >= 0:
                self._text = self._text[: found + len(stop) * self._include_stop]
                return stop
        return None

    def show(self, everything: bool) -> str:
        """Return the text that has become visible since the last call."""
        end = len(self._text) if everything else len(self._text) - self._held
        if end <= self._shown:
            return ""
        begin, self._shown = self._shown, end
        return self._text[begin:end]
