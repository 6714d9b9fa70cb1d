"""Says of which kind the fork is at which a branch leaves the others."""

from collections import deque
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from gateway import Cause, ForkKind, Trace
from gateway_plugins.trace_capture.sequences.messages import Message, read_message

FORK_KINDS: tuple[ForkKind, ...] = get_args(ForkKind)

NO_FORK = "none"
"""The kind of a branch that leaves no other."""

MIN_SUMMARY = 16
"""Characters; a shorter answer that comes up again in another text may do so by chance."""

KEPT = 32
"""Number of the latest traces in which summaries are looked for: a harness uses one soon."""

OF_CAUSE: Mapping[Cause, ForkKind] = {
    "retry": "retry",
    "rejected_attempt": "rejected_attempt",
    "retokenised_completion": "reformatting",
    "stripped_reasoning": "reformatting",
    "compacted_history": "compaction",
}


class _Kept(msgspec.Struct, frozen=True):
    """What later traces are compared with: a request with its messages, and those of its answer.

    `request` is None if nothing was sampled: what is sampled later for it is no second sample.
    """

    request: Any
    messages: Any
    answers: list[Any]


class Forks:
    """The traces of a session so far, in order, as far as they tell kinds of forks."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._agents: set[str] = set()
        self._summed_up: set[str | None] = set()  # agents that have yet to go on from a summary
        self._in_subagent = False

    def kind(self, trace: Trace) -> ForkKind:
        """Return the kind of the fork with which the trace's prompt begins. Never raises."""
        said = self._of_harness(trace)
        if said is not None:
            return said
        try:
            if trace.retry_of is not None or self._was_sent(trace.raw_request):
                return "retry"
            found = self._of_texts(trace) or _of_cause(trace)
        except RecursionError:  # values nested too deeply to compare
            return "unknown"
        return "compaction" if self._goes_on(trace, found) else found

    def _goes_on(self, trace: Trace, found: ForkKind) -> bool:
        """Whether the trace goes on from a summary that its harness has had made before.

        The text alone need not tell: Claude Code takes its marks out of a summary.
        """
        agent = None if trace.harness is None else trace.harness.agent_id
        if trace.harness is None or found == "reformatting" or agent not in self._summed_up:
            return False
        self._summed_up.remove(agent)
        return True

    def _was_sent(self, request: object) -> bool:
        return request is not None and any(one.request == request for one in self._kept)

    def add(self, trace: Trace) -> None:
        """Note a trace after its `kind` was asked for, if it begins with a fork."""
        answers = [choice.message for choice in trace.choices]
        sampled = trace.completion_token_ids or any(one.token_ids for one in trace.choices)
        request = trace.raw_request if sampled else None
        self._kept.append(_Kept(request, trace.messages, answers))
        if trace.harness is not None:
            self._in_subagent = trace.harness.call_kind == "subagent"
            if trace.harness.agent_id is not None:
                self._agents.add(trace.harness.agent_id)
            if trace.harness.call_kind == "compaction" and sampled:
                self._summed_up.add(trace.harness.agent_id)

    def _of_harness(self, trace: Trace) -> ForkKind | None:
        """Return what the harness itself says; a subagent begins with its first call."""
        harness = trace.harness
        if harness is None:
            return None
        if harness.call_kind == "compaction":
            return "compaction"
        begins = harness.call_kind == "subagent" and not self._in_subagent
        other = harness.agent_id is not None and harness.agent_id not in self._agents
        return "subagent" if begins or other else None

    def _of_texts(self, trace: Trace) -> ForkKind | None:
        """Return `compaction` if a new message holds what was sampled for another prompt."""
        messages = _read(trace.messages)
        kept = [(_read(one.messages), _texts(one.answers)) for one in self._kept]
        known = {(one.role, one.text) for earlier, _ in kept for one in earlier}
        new = [one for one in messages if (one.role, one.text) not in known]
        found = (
            _holds(message, answer, alike=earlier[:1] == messages[:1])
            for earlier, answers in kept
            for answer in answers
            for message in new
        )
        return "compaction" if any(found) else None


def _holds(message: Message, answer: str, *, alike: bool) -> bool:
    """Whether an answer came back as a summary. `alike`: both conversations begin alike.

    The result of a tool is no summary: it may be the answer of a subagent.
    """
    if message.role in ("tool", "function"):
        return False
    if message.role == "assistant":
        return message.text == answer and not alike
    return answer in message.text


def _of_cause(trace: Trace) -> ForkKind:
    return OF_CAUSE.get(trace.divergence.cause, "unknown") if trace.divergence else "unknown"


def _read(messages: object) -> list[Message]:
    return list(map(read_message, messages)) if isinstance(messages, list) else []


def _texts(answers: list[Any]) -> list[str]:
    texts = (read_message(one).text for one in answers if isinstance(one, dict))
    return [text for text in texts if len(text) >= MIN_SUMMARY]
