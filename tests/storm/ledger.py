"""What callers and workers write down of a storm."""

from collections import Counter, defaultdict
from typing import Literal

import msgspec
from support.callers.raw_client import RawAnswer

from gateway.testing import sse

Verdict = Literal["whole", "told", "told mid-stream", "broken off", "left", "SHORT", "LOST"]

PIECES = 4
ERROR = b"event: error\ndata: "


class Ledger:
    """Filled while the storm goes on.

    `whole` are the ids of the calls that had their whole answer, `runs` has by its id how often a
    call was, or may have been, run. `over_limit` counts calls that a worker was given past its
    limit, `most` is what each had at a time at most. `latencies` are seconds, by phase, and `lags`
    how late callers and workers were woken, which is no fault of the gateway's. `unheard` says of
    calls that ended as none may how they did.
    """

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.said: Counter[str] = Counter()
        self.whole: set[str] = set()
        self.runs: Counter[str] = Counter()
        self.over_limit: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.latencies: defaultdict[str, list[float]] = defaultdict(list)
        self.lags: defaultdict[str, list[float]] = defaultdict(list)
        self.unheard: list[str] = []


def pieces_of(call_id: str, *, stream: bool) -> list[bytes]:
    """What a worker says to a call, in pieces; to no other call is the same said."""
    if not stream:
        return [msgspec.json.encode({"id": call_id, "choices": [{"text": call_id * PIECES}]})]
    event = sse({"id": call_id, "choices": [{"text": call_id}]})
    return [event] * PIECES + [sse("[DONE]")]


def verdict_of(call_id: str, answer: RawAnswer, *, stream: bool, cut: bool) -> Verdict:
    """How a call ended; `cut`: the connection ended before the answer did."""
    if answer.status != 200:
        return "told" if not cut and b'"error"' in answer.body else "LOST"
    if cut:
        return "told mid-stream" if ERROR in answer.body else "broken off"
    whole = answer.body == b"".join(pieces_of(call_id, stream=stream))
    return "whole" if whole else "SHORT"


def code_of(answer: RawAnswer) -> str:
    """What an answer that is not whole says of why."""
    _, _, told = answer.body.partition(ERROR)
    try:
        error = msgspec.json.decode(told or answer.body)["error"]
        code = error.get("gateway_code") or error["code"]
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return "nothing"
    return f"{answer.status} {code}"
