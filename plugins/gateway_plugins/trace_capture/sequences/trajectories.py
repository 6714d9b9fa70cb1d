"""Builds the branches of a session, as sequences of tokens to train on.

The sampled sequences (prompt and completion of each choice) form a tree: if a prompt begins with
the whole of an earlier sequence, its choice is a turn after that one. A branch is a leaf with all
turns before it, so retries, the choices of one response, and prompts that were changed afterwards
are separate branches.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from gateway import (
    Divergence,
    ForkKind,
    Reason,
    Reward,
    Trace,
    TraceChoice,
    Trajectories,
    Trajectory,
)
from gateway_plugins.trace_capture.answers.metadata import UNNAMED_WEIGHTS
from gateway_plugins.trace_capture.sequences.forks import Forks
from gateway_plugins.trace_capture.sequences.lineage import Key, Lineage, common_prefix

MIN_SHARED_TOKENS = 8
"""Tokens; two prompts with fewer in common share only the chat template's beginning."""


def trajectories(
    session_id: str, traces: Iterable[Trace], rewards: Iterable[Reward] = ()
) -> Trajectories:
    """Return the branches of a session, from its traces in order, oldest first.

    Branches are ordered depth first, earlier turns first. If branches share a turn, only the first
    one has the turn's loss mask set. The result has all rewards, and each branch those of its
    traces.
    """
    tree = Tree(traces)
    given = list(rewards)
    found = [branch.trajectory() for branch in tree.branches()]
    add_rewards(found, given)
    return Trajectories(
        session_id=session_id, trajectories=found, rewards=given, left_out=tree.left_out
    )


def choices_of(trace: Trace) -> list[TraceChoice]:
    """Return the choices of a trace; if it has none, one made from its flat fields."""
    if trace.choices or not trace.completion_token_ids:
        return trace.choices
    return [
        TraceChoice(
            message=trace.response_message or None,
            prompt_token_ids=trace.prompt_token_ids,
            token_ids=trace.completion_token_ids,
            logprobs=trace.logprobs or [],
            finish_reason=trace.finish_reason,
            verdict=trace.verdict,
            reasons=trace.reasons,
        )
    ]


class Turn:
    """A choice in the tree. `data` is its sequence, or b"" once a later turn contains it."""

    __slots__ = (
        "children",
        "choice",
        "claimed",
        "data",
        "divergence",
        "fork_kind",
        "given_up",
        "logprobs",
        "parent",
        "reasons",
        "spans",
        "start",
        "stop",
        "trace_id",
        "version",
        "whole",
    )

    def __init__(self, trace: Trace, place: int, choice: TraceChoice, data: bytes) -> None:
        self.trace_id = trace.trace_id
        self.choice = place
        self.data = data
        self.start = len(choice.prompt_token_ids)
        self.stop = self.start + len(choice.token_ids)
        self.logprobs, self.reasons = _logprobs(choice)
        self.whole = choice.verdict == "COMPLETE" and not self.reasons
        self.version = trace.weight_version
        self.spans = choice.weight_versions or ()
        self.divergence: Divergence | None = trace.divergence
        self.fork_kind: ForkKind | None = None
        self.parent: Turn | None = None
        self.children: list[Turn] = []
        self.claimed = False
        self.given_up = False  # it broke off, and its prompt was sent again

    def versions(self) -> list[int | str | None]:
        """Return the version that sampled each token: that of its span, else the trace's."""
        count = self.stop - self.start
        found = [self.version] * count
        for span in self.spans:
            if span.version != UNNAMED_WEIGHTS:
                start, end = max(span.start, 0), min(span.end, count)
                found[start:end] = [span.version] * (end - start)
        return found


class Tree:
    """The turns of a session, of its traces in order."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self.left_out: dict[str, list[Reason]] = {}
        self._lineage = Lineage()
        self._turns: dict[Key, Turn] = {}
        self._roots: list[Turn] = []
        self._broken: dict[bytes, list[Turn]] = {}  # by their prompts
        self._forks = Forks()
        self._traces = 0
        for trace in traces:
            self._add(trace)

    def _add(self, trace: Trace) -> None:
        grown: dict[Key, tuple[Turn, bytes]] = {}
        for place, choice in enumerate(choices_of(trace)):
            packed = _packed(choice)
            if packed is not None:
                turn = Turn(trace, place, choice, b"".join(packed))
                # The lineage gets this trace's choices later: none is a turn after another.
                if (fork := self._attach(turn, packed[0])) is not None:
                    kind: ForkKind = "sample" if place else self._forks.kind(trace)
                    turn.fork_kind = fork if kind == "unknown" else kind
                grown[self._traces, place] = turn, turn.data
        for key, (turn, data) in grown.items():
            self._turns[key] = turn
            self._lineage.add(key, data)
            if not turn.whole:
                self._broken.setdefault(data[: turn.start * 4], []).append(turn)
        if not grown:
            self.left_out[trace.trace_id] = _why(trace)
        self._forks.add(trace)
        self._traces += 1

    def branches(self) -> Iterator["Branch"]:
        """Yield the branches, depth first; those before it have the turns that it shares. Once."""
        places, place = _Places(), 0
        waiting = list(reversed(self._roots))
        while waiting:
            turn = waiting.pop()
            waiting.extend(reversed(turn.children))
            if not turn.children:
                yield Branch(place, _path_to(turn), places)
                place += 1

    def _attach(self, turn: Turn, prompt: bytes) -> ForkKind | None:
        """Add a turn to the tree.

        Returns None unless it forks, so that another turn is in the same place; else the kind of
        the fork as far as the tokens tell it.
        """
        parent, rewrites = self._parent(prompt)
        turn.parent = parent
        siblings = self._roots if parent is None else parent.children
        siblings.append(turn)
        if parent is not None:
            parent.data = b""
        if len(siblings) == 1:
            return None
        return "reformatting" if rewrites else "unknown"

    def _parent(self, prompt: bytes) -> tuple[Turn | None, bool]:
        """Return the turn that the prompt continues, None if it begins a conversation.

        If a response broke off and the same prompt was sent again, what comes later continues the
        second response, even if the harness has written it anew after the part that both share.
        The second value is then true.
        """
        for same in self._broken.pop(prompt, ()) if self._broken else ():
            same.given_up = True
        key = self._lineage.relation(prompt).parent
        longest = turn = None if key is None else self._turns[key]
        while turn is not None and turn.given_up:
            turn = turn.parent
        return turn, turn is not longest


class _Places:
    """The branches so far, sorted by bytes: the longest common prefix is that of a neighbour."""

    def __init__(self) -> None:
        self._sorted: list[bytes] = []
        self._places: list[int] = []

    def add(self, place: int, data: bytes) -> tuple[int, int] | None:
        """Add a branch; return the earlier one with the longest common prefix, and its length.

        The length is in tokens. None for the first branch.
        """
        at = bisect_right(self._sorted, data)
        sides = [side for side in (at - 1, at) if 0 <= side < len(self._sorted)]
        near = [(common_prefix(self._sorted[side], data), -self._places[side]) for side in sides]
        self._sorted.insert(at, data)
        self._places.insert(at, place)
        if not near:
            return None
        common, other = max(near)
        return -other, common // 4


class Branch:
    """The turns from a root to a leaf; of these, `new` are in no branch before."""

    def __init__(self, place: int, turns: list[Turn], places: _Places) -> None:
        self.turns = turns
        self.new = [turn for turn in turns if not turn.claimed]
        self._place = place
        self._near = places.add(place, turns[-1].data)
        for turn in self.new:
            turn.claimed = True

    @property
    def fork_kind(self) -> ForkKind | None:
        return self.new[0].fork_kind

    @property
    def reasons(self) -> list[Reason]:
        """Why the branch is INCOMPLETE; empty if it is not."""
        return list(dict.fromkeys(reason for turn in self.turns for reason in turn.reasons))

    @property
    def whole(self) -> bool:
        return all(turn.whole for turn in self.turns)

    def trajectory(self, taught: Iterable[Turn] | None = None) -> Trajectory:
        """Return the branch as one sequence, with a mask on the `taught` turns; None: on `new`."""
        data = self.turns[-1].data
        token_ids = array("i", data).tolist()
        loss_mask, logprobs = [0] * len(token_ids), [None] * len(token_ids)
        made = Trajectory(
            index=self._place,
            token_ids=token_ids,
            loss_mask=loss_mask,
            logprobs=[*logprobs],
            weight_versions=[*logprobs],
            trace_ids=[turn.trace_id for turn in self.turns],
            choices=[turn.choice for turn in self.turns],
            verdict="COMPLETE" if self.whole else "INCOMPLETE",
            reasons=self.reasons,
            divergence=self.new[0].divergence,
            fork_kind=self.fork_kind,
        )
        self._fork(made)
        for turn in self.new if taught is None else taught:
            _teach(turn, made)
        return made

    def _fork(self, made: Trajectory) -> None:
        """Set `branched_from` and `shared` (tokens); tokens sampled in the branch do not count."""
        if self._near is None:
            return
        other, common = self._near
        first, shares_turns = self.new[0], len(self.new) < len(self.turns)
        shared = min(common, first.start)
        if shares_turns or shared >= MIN_SHARED_TOKENS or shared == first.start:
            made.branched_from, made.shared = other, shared


def _teach(turn: Turn, made: Trajectory) -> None:
    place, count = slice(turn.start, turn.stop), turn.stop - turn.start
    made.loss_mask[place] = [1] * count
    made.logprobs[place] = turn.logprobs
    made.weight_versions[place] = turn.versions()


def _path_to(leaf: Turn) -> list[Turn]:
    path = [leaf]
    while (before := path[-1].parent) is not None:
        path.append(before)
    return path[::-1]


def _packed(choice: TraceChoice) -> tuple[bytes, bytes] | None:
    """Pack prompt and completion; None if one is missing, or has a value that is no token id."""
    if not choice.prompt_token_ids or not choice.token_ids:
        return None
    try:
        return (
            array("i", choice.prompt_token_ids).tobytes(),
            array("i", choice.token_ids).tobytes(),
        )
    except (OverflowError, TypeError):
        return None


def _logprobs(choice: TraceChoice) -> tuple[list[float | None], list[Reason]]:
    """Return one logprob per token (None for missing ones at the end) and the choice's reasons."""
    found, wanted = choice.logprobs, len(choice.token_ids)
    if len(found) == wanted:
        return found, choice.reasons
    reason: Reason = "counts_differ" if found else "logprobs_missing"
    padded = [*found[:wanted], *[None] * (wanted - len(found))]
    return padded, list(dict.fromkeys([*choice.reasons, reason]))


def _why(trace: Trace) -> list[Reason]:
    """Return the reasons of a trace without tokens; at least one."""
    choices = (reason for choice in trace.choices for reason in choice.reasons)
    return list(dict.fromkeys([*trace.reasons, *choices])) or ["token_ids_missing"]


def add_rewards(found: Sequence[Trajectory], rewards: list[Reward]) -> None:
    """Give each trajectory the rewards of its traces."""
    by_trace: dict[str, list[Reward]] = {}
    for reward in rewards:
        if reward.trace_id is not None:
            by_trace.setdefault(reward.trace_id, []).append(reward)
    for one in found if by_trace else ():
        own = dict.fromkeys(one.trace_ids)
        one.rewards = [reward for trace_id in own for reward in by_trace.get(trace_id, ())]
