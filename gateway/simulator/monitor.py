"""Counts of the simulator, and their format at `/metrics`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from gateway.errors import CallerGone

# Number of full contexts that fit into the simulated key-value cache.
_CACHE_CONTEXTS = 16


class Stats(msgspec.Struct, frozen=True):
    """A simulator's counts at one moment.

    `served` calls got their whole response; `aborted` calls lost their caller before its end;
    `in_flight` calls wait or run. `connections` is the number of open connections, `accepted` the
    number ever accepted.
    """

    served: int
    aborted: int
    in_flight: int
    connections: int
    accepted: int


class CallInFlight:
    """One generation call: it waits, then its prompt and its tokens occupy the cache."""

    __slots__ = ("completion_tokens", "prompt_tokens", "whole")

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.whole = False

    def starts(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens

    def adds(self, tokens: int) -> None:
        self.completion_tokens += tokens

    @property
    def running(self) -> bool:
        return self.prompt_tokens > 0


class Monitor:
    """Counts generation calls and their tokens; `idle` is set while no call is in flight."""

    def __init__(self, model: str, max_model_len: int) -> None:
        self.served = 0
        self.aborted = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._calls: set[CallInFlight] = set()
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._labels = f'{{engine="0",model_name={msgspec.json.encode(model).decode()}}}'
        self._capacity = _CACHE_CONTEXTS * max_model_len

    @property
    def in_flight(self) -> int:
        return len(self._calls)

    @contextmanager
    def call(self) -> Iterator[CallInFlight]:
        """Track a call from its arrival to its end; CallerGone in between counts it as aborted."""
        call = CallInFlight()
        self._calls.add(call)
        self.idle.clear()
        try:
            yield call
        except BaseException as error:
            if call.whole:
                self.served -= 1
            elif isinstance(error, CallerGone):
                self.aborted += 1
            raise
        finally:
            self._forget(call)

    def call_is_whole(self, call: CallInFlight) -> None:
        """Count the call as served.

        Called before the last byte is sent, so that a caller with the whole response finds it
        counted.
        """
        call.whole = True
        self.served += 1
        self._forget(call)

    def _forget(self, call: CallInFlight) -> None:
        if call in self._calls:
            self._calls.remove(call)
            self._prompt_tokens += call.prompt_tokens
            self._completion_tokens += call.completion_tokens
        if not self._calls:
            self.idle.set()

    def metrics(self) -> bytes:
        """Return Prometheus' text format, with the names and labels of vLLM."""
        running = [call for call in self._calls if call.running]
        prompts = sum(call.prompt_tokens for call in running)
        completions = sum(call.completion_tokens for call in running)
        samples = (
            ("gauge", "num_requests_running", len(running)),
            ("gauge", "num_requests_waiting", len(self._calls) - len(running)),
            ("gauge", "kv_cache_usage_perc", min(1.0, (prompts + completions) / self._capacity)),
            ("counter", "prompt_tokens_total", self._prompt_tokens + prompts),
            ("counter", "generation_tokens_total", self._completion_tokens + completions),
            ("counter", "request_success_total", self.served),
        )
        lines = (
            f"# TYPE vllm:{name} {kind}\nvllm:{name}{self._labels} {float(value)}\n"
            for kind, name, value in samples
        )
        return "".join(lines).encode()
