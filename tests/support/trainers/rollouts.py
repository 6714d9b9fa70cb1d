"""Random sessions with all that exports carry: messages, verdicts, alternatives, experts."""

import base64
import struct
from typing import Any

from gateway_plugins.trace_capture.exports.rollout import NothingToTrain, Rollout, Turns
from gateway_plugins.trace_capture.exports.rows import row_of
from gateway_plugins.trace_capture.sequences.trajectories import trajectories
from hypothesis import strategies as st
from trace_capture.sequences.test_trajectories import SESSIONS

from gateway import Reward, SessionInfo, Trace, TraceChoice, Trajectory, WeightSpan

LAYERS, EXPERTS = 2, 3
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
REWARD = Reward(value=0.5, source="judge")


def npy(shape: tuple[int, ...], numbers: list[int], code: str = "i", kind: str = "<i4") -> str:
    """The base64 of a .npy file, as vLLM sends it."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    return base64.b64encode(data + struct.pack(f"<{len(numbers)}{code}", *numbers)).decode()


def experts(rows: range, number: int) -> list[int]:
    """Those that the trace of this number has of these tokens."""
    size = LAYERS * EXPERTS
    return [number * 10_000 + row * 10 + one for row in rows for one in range(size)]


def experts_expected(one: Trajectory, traces: list[Trace]) -> list[int]:
    """Those of each token from the turn that read it first."""
    by_id, found, start = {trace.trace_id: trace for trace in traces}, list[int](), 0
    for trace_id, place in zip(one.trace_ids, one.choices, strict=True):
        choice = by_id[trace_id].choices[place]
        stop = len(choice.prompt_token_ids) + len(choice.token_ids) - 1
        found += experts(range(start, stop), int(trace_id[1:]))
        start = stop
    return found


def enriched(trace: Trace, cut: frozenset[int]) -> Trace:
    number = int(trace.trace_id[1:])
    for place, choice in enumerate(trace.choices):
        _enrich(choice, number, whole=(number + place) not in cut)
    first = trace.choices[0]
    trace.messages = [{"role": "user", "content": f"question {number}"}]
    trace.raw_request = {"messages": trace.messages, "tools": [TOOL]}
    trace.model, trace.timestamp, trace.verdict = "m", 1e9 + number, first.verdict
    return trace


def _enrich(choice: TraceChoice, number: int, *, whole: bool) -> None:
    count = len(choice.token_ids)
    rows = len(choice.prompt_token_ids) + count - 1
    choice.message = {"role": "assistant", "content": "answer"}
    choice.top_logprobs = [
        [{"token_id": token + one, "logprob": -1.5 - one} for one in range(1 + token % 2)]
        for token in choice.token_ids
    ]
    choice.routing_matrices = npy((rows, LAYERS, EXPERTS), experts(range(rows), number))
    choice.weight_versions = [WeightSpan(version="v", start=0, end=count)]
    if not whole:
        choice.verdict, choice.reasons = "INCOMPLETE", ["aborted"]


@st.composite
def sessions(draw: st.DrawFn) -> list[Trace]:
    traces = draw(SESSIONS)
    cut = draw(st.frozensets(st.integers(0, 30), max_size=8))
    return [enriched(trace, cut) for trace in traces]


def rollouts_of(traces: list[Trace]) -> list[tuple[Trajectory, Rollout | None]]:
    """Each trajectory with its rollout, None if there is nothing to train in it."""
    turns, by_id = Turns(), {trace.trace_id: trace for trace in traces}
    info = SessionInfo(session_id="s", metadata={"task": 7})
    found: list[tuple[Trajectory, Rollout | None]] = []
    for one in trajectories("s", turns.following(traces), [REWARD]).trajectories:
        last, row = by_id[one.trace_ids[-1]], row_of(one, info, [REWARD])
        try:
            made = Rollout(row, turns.of(row), last, info, [REWARD], number=len(found))
        except NothingToTrain:
            found.append((one, None))
        else:
            found.append((one, made))
    return found


def trained(one: Trajectory, traces: list[Trace]) -> list[int]:
    """The mask that an export has to have: that of the trajectory without INCOMPLETE choices."""
    by_id, mask = {trace.trace_id: trace for trace in traces}, list(one.loss_mask)
    for trace_id, place in zip(one.trace_ids, one.choices, strict=True):
        choice = by_id[trace_id].choices[place]
        start = len(choice.prompt_token_ids)
        if choice.verdict != "COMPLETE":
            mask[start : start + len(choice.token_ids)] = [0] * len(choice.token_ids)
    return mask


Read = dict[str, Any]
"""What a trainer reads of a row: `tokens`, `mask`, `logprobs` of the whole sequence, and so on."""
