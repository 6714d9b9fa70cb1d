"""One engine: continuous batching in steps, and a prefix cache of blocks, as vLLM has them.

A step computes one token of each sequence that decodes, and a chunk of the first prompt that is
not computed yet. Between two events (a prompt is done, a sequence ends, a turn comes) all steps
take equally long, so the time jumps to the next event. Blocks of turns that run are kept; of all
others the one used longest ago goes first, and of one turn the last block before the first. A turn
begins once all of its blocks fit, those of its output too, so nothing is ever pre-empted.
"""

import heapq
import math
from collections import Counter, OrderedDict, deque

import msgspec

from routing.workload import BLOCK, Session, Step


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do; sizes in tokens, times in seconds.

    A step takes `step`, `sequence` for each one that decodes, and the time of its chunk of a prompt
    at `prefill` tokens a second. The cache holds `cache` tokens.
    """

    cache: int = 400_000
    step: float = 0.015
    sequence: float = 0.0003
    prefill: float = 12_000.0
    chunk: int = 2_048
    most: int = 256


class Turn:
    """One turn of a session: `at` is when the gateway got it, `cached` what the cache had."""

    __slots__ = ("at", "blocks", "cached", "left", "number", "session", "step", "whole")

    def __init__(self, session: Session, number: int, at: float) -> None:
        self.session = session
        self.number = number
        self.step: Step = session.steps[number]
        self.at = at
        self.cached = 0
        self.left = 0.0
        self.blocks: list[int] = []
        self.whole = 0

    def __lt__(self, other: "Turn") -> bool:
        return (self.session.number, self.number) < (other.session.number, other.number)


class Engine:
    """Runs turns. `now` is the time up to which it is simulated."""

    def __init__(self, speed: Speed) -> None:
        self.speed = speed
        self.now = 0.0
        self.prompt_tokens = self.cached_tokens = 0
        self._capacity = speed.cache // BLOCK
        self._used: Counter[int] = Counter()
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._waiting: deque[Turn] = deque()
        self._prefilling: deque[Turn] = deque()
        self._decoding: list[tuple[float, Turn]] = []
        self._decoded = 0.0

    @property
    def running(self) -> int:
        """Number of turns that it computes."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Number of turns in its own queue."""
        return len(self._waiting)

    @property
    def usage(self) -> float:
        """Share of the cache that running turns have, 0 to 1: vLLM's kv_cache_usage_perc."""
        return len(self._used) / self._capacity

    def add(self, turn: Turn, now: float) -> None:
        """Take in a turn."""
        self._advance(now)
        self._waiting.append(turn)
        self._begin()

    def next_event(self) -> float:
        """Return the time when a prompt will be done or a sequence end; inf: never."""
        seconds, step = math.inf, self._step()
        if self._prefilling:
            seconds = self._prefilling[0].left / self.speed.chunk * step
        if self._decoding:
            seconds = min(seconds, (self._decoding[0][0] - self._decoded) * step)
        return self.now + max(seconds, 0.0)

    def pass_event(self) -> list[Turn]:
        """Let the time pass to the next event, and return the turns that have ended."""
        first = self._prefilling[0] if self._prefilling else None
        prompt_first = first is not None and (
            not self._decoding
            or first.left / self.speed.chunk <= self._decoding[0][0] - self._decoded
        )
        self._advance(self.next_event())
        if prompt_first:
            turn = self._prefilling.popleft()
            heapq.heappush(self._decoding, (self._decoded + turn.step.output, turn))
            return []
        _, turn = heapq.heappop(self._decoding)
        self._end(turn)
        self._begin()
        return [turn]

    def _step(self) -> float:
        speed = self.speed
        prompt = speed.chunk / speed.prefill if self._prefilling else 0.0
        return speed.step + speed.sequence * len(self._decoding) + prompt

    def _advance(self, now: float) -> None:
        steps = (now - self.now) / self._step()
        self.now = now
        self._decoded += steps
        if self._prefilling:
            self._prefilling[0].left -= steps * self.speed.chunk

    def _begin(self) -> None:
        while self._waiting and self.running < self.speed.most:
            if not self._fits(self._waiting[0]):
                return
            turn = self._waiting.popleft()
            self._prefilling.append(turn)

    def _fits(self, turn: Turn) -> bool:
        """Give a turn its blocks, if there is room for them."""
        step, used, idle = turn.step, self._used, self._idle
        whole = turn.session.blocks(step.prompt + step.output)
        fresh = sum(block not in used for block in whole) + 1  # and one that is not full
        if len(used) + fresh > self._capacity:
            return False
        kept = 0
        for block in whole[: (step.prompt - 1) // BLOCK]:
            if block not in used and block not in idle:
                break
            kept += 1
        for block in whole:
            used[block] += 1
            idle.pop(block, None)
        partial = -1 - turn.session.number - (1 << 40)
        used[partial] += 1
        while len(used) + len(idle) > self._capacity:
            idle.popitem(last=False)
        turn.blocks, turn.whole, turn.cached = whole, partial, kept * BLOCK
        turn.left = float(step.prompt - turn.cached)
        self.prompt_tokens += step.prompt
        self.cached_tokens += turn.cached
        return True

    def _end(self, turn: Turn) -> None:
        used, idle = self._used, self._idle
        del used[turn.whole]
        for block in reversed(turn.blocks):
            used[block] -= 1
            if not used[block]:
                del used[block]
                idle[block] = None
