"""A trajectory with all that trainers want of it: what was trained on, messages, reward, arrays."""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from gateway import Reason, Reward, SessionInfo, Trace, TraceChoice, Trajectory
from gateway_plugins.trace_capture.exports.arrays import NO_ID, Array, Top, experts_of, top_of
from gateway_plugins.trace_capture.sequences.trajectories import choices_of

MAX_TOP = 1 << 28
"""Numbers of alternatives of one rollout: 1 GiB."""


class Turn(msgspec.Struct):
    """A choice within a trajectory: its tokens are those from `start` to `stop`.

    `asked` is the number of messages of its request. `answer` is its message, made of its text if
    it has none. `owned`: its tokens belong to this branch, not to an earlier one.
    """

    trace_id: str
    start: int
    stop: int
    asked: int
    answer: dict[str, Any]
    timestamp: float
    model: str
    finish_reason: str | None
    reasons: list[Reason]
    whole: bool
    top: Top | None
    experts: Array | None
    owned: bool = False


class Turns:
    """The turns of a session without their tokens, which its trajectories have."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, int], Turn] = {}

    def following(self, traces: Iterable[Trace]) -> Iterator[Trace]:
        """Yield the traces on, and keep the turns of each."""
        for trace in traces:
            for place, choice in enumerate(choices_of(trace)):
                self._turns[trace.trace_id, place] = _turn(trace, choice)
            yield trace

    def of(self, one: Trajectory) -> list[Turn]:
        """Return the turns of a trajectory in order."""
        found = [self._turns[key] for key in zip(one.trace_ids, one.choices, strict=True)]
        return [
            msgspec.structs.replace(turn, owned=one.loss_mask[turn.start] == 1) for turn in found
        ]


def _turn(trace: Trace, choice: TraceChoice) -> Turn:
    start = len(choice.prompt_token_ids)
    stop = start + len(choice.token_ids)
    return Turn(
        trace_id=trace.trace_id,
        start=start,
        stop=stop,
        asked=len(trace.messages),
        answer=choice.message or {"role": "assistant", "content": choice.text or ""},
        timestamp=trace.timestamp,
        model=trace.model,
        finish_reason=choice.finish_reason,
        reasons=choice.reasons,
        whole=choice.verdict == "COMPLETE" and not choice.reasons,
        top=top_of(choice.top_logprobs, choice.token_ids, choice.tokens),
        experts=experts_of(choice.routing_matrices, stop),
    )


class NothingToTrain(ValueError):
    """No token of the branch is both its own and COMPLETE; `reasons` say why."""

    def __init__(self, reasons: list[Reason]) -> None:
        super().__init__("no token of this branch can be trained on")
        self.reasons = reasons


class Rollout:
    """A trajectory as prompt and response: the response begins with the first trained token.

    `mask` is the trajectory's loss mask without the tokens of INCOMPLETE turns. `number` counts the
    rollouts of a file, `session_number` their sessions. `last` is the trace of its last turn,
    `asked` are the messages of its request.
    """

    def __init__(
        self,
        one: Trajectory,
        turns: list[Turn],
        last: Trace,
        session: SessionInfo,
        session_rewards: Sequence[Reward],
        *,
        number: int = 0,
        session_number: int = 0,
    ) -> None:
        self.trajectory = one
        self.turns = turns
        self.last = last
        self.session = session
        self.session_rewards = session_rewards
        self.number = number
        self.session_number = session_number
        self.mask = _trained(one, turns)
        if 1 not in self.mask:
            raise NothingToTrain(one.reasons)
        self.start = self.mask.index(1)
        self.asked = last.messages or _in_place_of_messages(turns, last)

    @property
    def id(self) -> str:
        """The session, and the number of the branch in it."""
        return f"{self.session.session_id}/{self.trajectory.index}"

    @property
    def prompt_ids(self) -> list[int]:
        return self.trajectory.token_ids[: self.start]

    @property
    def response_ids(self) -> list[int]:
        return self.trajectory.token_ids[self.start :]

    @property
    def response_mask(self) -> list[int]:
        return self.mask[self.start :]

    @property
    def response_logprobs(self) -> list[float]:
        """One per token of the response, 0 where the mask is 0.

        Raises ValueError if a trained token has none.
        """
        found = []
        pairs = zip(self.response_mask, self.trajectory.logprobs[self.start :], strict=True)
        for trained, value in pairs:
            if trained and value is None:
                raise ValueError("a trained token has no logprob")
            found.append(value if trained and value is not None else 0.0)
        return found

    @property
    def response_versions(self) -> list[str | None]:
        """The weights that sampled each token of the response; None where the mask is 0."""
        versions = self.trajectory.weight_versions[self.start :]
        pairs = zip(self.response_mask, versions, strict=True)
        return [str(one) if mask and one is not None else None for mask, one in pairs]

    @property
    def weight_versions(self) -> list[str]:
        """The weights in the order of the tokens that they sampled, for each trained turn."""
        versions = self.trajectory.weight_versions
        spans = [groupby(versions[turn.start : turn.stop]) for turn in self.trained]
        return [str(one) for turn in spans for one, _ in turn if one is not None]

    @property
    def trained(self) -> list[Turn]:
        """The turns with trained tokens."""
        return [turn for turn in self.turns if self.mask[turn.start]]

    @property
    def reward(self) -> float | None:
        """The latest reward of the session; if it has none, the sum of those of the traces."""
        if self.session_rewards:
            return self.session_rewards[-1].value
        own = self.trajectory.rewards
        return sum(reward.value for reward in own) if own else None

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages before the first trained answer."""
        return self.asked[: self.trained[0].asked]

    @property
    def completion(self) -> list[dict[str, Any]]:
        """The messages from the first trained answer on, with what came between."""
        return [*self.asked[len(self.prompt) :], self.turns[-1].answer]

    @property
    def text(self) -> str:
        """The text of the trained answers."""
        texts = [turn.answer.get("content") for turn in self.trained]
        return "".join(text for text in texts if isinstance(text, str))

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools of the last request."""
        told = (self.last.raw_request or {}).get("tools")
        return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []

    @property
    def truncated(self) -> bool:
        return self.turns[-1].finish_reason == "length"

    def experts(self) -> Array | None:
        """The experts of all tokens but the last one, see experts_of_turns."""
        return experts_of_turns(self.turns)

    def top(self) -> Top | None:
        """The alternatives of the response's tokens; None if no trained turn has any.

        Raises ValueError if rows of one length would be too many numbers.
        """
        places = [(turn.top, turn.start - self.start) for turn in self.trained]
        return top_of_turns(places, len(self.mask) - self.start)


def experts_of_turns(turns: Sequence[Turn]) -> Array | None:
    """Return the experts of all tokens of a trajectory but the last: those at their first pass.

    A turn samples its tokens and reads what came since the turn before. None if a turn does not
    tell them of all tokens before its last one.
    """
    arrays = [turn.experts for turn in turns if turn.experts is not None]
    if [one.rows for one in arrays] != [turn.stop - 1 for turn in turns]:
        return None
    if len({tuple(one.shape[1:]) for one in arrays}) != 1:
        return None
    ends = [one.rows for one in arrays]
    pairs = zip(arrays, [0, *ends[:-1]], ends, strict=True)
    data = b"".join(one.cut(start, stop) for one, start, stop in pairs)
    return Array("int32", [ends[-1], *arrays[0].shape[1:]], data)


def top_of_turns(places: Iterable[tuple[Top | None, int]], size: int) -> Top | None:
    """Return `size` rows of alternatives; those of each turn begin at its place.

    None if no turn has any. Raises ValueError if they would be more than MAX_TOP numbers.
    """
    told = [(top, at) for top, at in places if top is not None]
    if not told:
        return None
    k = max(top.k for top, _ in told)
    if k * size > MAX_TOP:
        raise ValueError("the alternatives are too many to be packed")
    ids, logprobs = array("i", [NO_ID]) * (k * size), array("f", [math.nan]) * (k * size)
    for top, at in told:
        _place(top, at, k, ids, logprobs)
    packed = Array("float32", [size, k], logprobs.tobytes())
    return Top(Array("int32", [size, k], ids.tobytes()), packed)


def _in_place_of_messages(turns: list[Turn], last: Trace) -> list[dict[str, Any]]:
    """Return a message before each answer, and set `asked` of the turns, which have no messages.

    Only the prompt of a single turn has its text: those of later turns repeat it.
    """
    prompt = (last.raw_request or {}).get("prompt")
    known = isinstance(prompt, str) and len(turns) == 1
    found: list[dict[str, Any]] = []
    for turn in turns:
        found.append({"role": "user", "content": prompt if known else ""})
        turn.asked = len(found)
        found.append(turn.answer)
    return found[:-1]


def _place(top: Top, at: int, k: int, ids: "array[int]", logprobs: "array[float]") -> None:
    """Copy the rows of a turn into those of the response, from the row `at` on."""
    own_ids, own_logprobs = top.ids.numbers(), top.logprobs.numbers()
    for row in range(top.ids.rows):
        source, target = row * top.k, (at + row) * k
        ids[target : target + top.k] = own_ids[source : source + top.k]
        logprobs[target : target + top.k] = own_logprobs[source : source + top.k]


def _trained(one: Trajectory, turns: Iterable[Turn]) -> list[int]:
    mask = list(one.loss_mask)
    for turn in turns:
        if turn.owned and not turn.whole:
            mask[turn.start : turn.stop] = [0] * (turn.stop - turn.start)
    return mask
