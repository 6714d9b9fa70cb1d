"""Counts calls: plain numbers, which become samples only at a scrape."""

from collections import Counter
from collections.abc import Collection, Iterator
from time import monotonic

from gateway import Call, Histogram, Outcome, Sample
from gateway_plugins.metrics.labels import OTHER
from gateway_plugins.metrics.watch import PER_TOKEN, Watch

MAX_SERIES = 1_000
"""Maximum number of combinations of route, model, worker and front end that are kept apart."""

MAX_CODES = 100
"""Maximum number of error codes, and of statuses, kept apart for one combination."""

FORGET_AFTER = 600.0
"""Seconds after which the numbers of a removed worker are dropped."""

DURATION = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72),
)
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
QUEUE = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
TOKENS = tuple(float(4**power) for power in range(12))
"""OpenTelemetry's bounds for its metrics, extended upwards for the calls of agents."""

Key = tuple[str, str, str, str]


class CallSeries:
    """The calls of one route, for one model, that ended at one worker, by one front end."""

    __slots__ = (
        "details",
        "duration",
        "errors",
        "first_token",
        "per_token",
        "queue",
        "results",
        "statuses",
        "tokens_in",
        "tokens_out",
    )

    def __init__(self) -> None:
        self.statuses: dict[str | int, int] = {}
        self.errors: dict[str | int, int] = {}
        self.results: dict[str | int, int] = {}
        self.details = {_CACHED: 0, _REASONED: 0}
        self.duration = Histogram(DURATION)
        self.queue = Histogram(QUEUE)
        self.first_token = Histogram(FIRST_TOKEN)
        self.per_token = Histogram(PER_TOKEN)
        self.tokens_in = Histogram(TOKENS)
        self.tokens_out = Histogram(TOKENS)

    def add(self, call: Call, outcome: Outcome, watch: Watch | None) -> None:
        attempts, usage = call.attempts, outcome.usage
        _count(self.statuses, outcome.status)
        _count(self.results, outcome.result)
        if outcome.error is not None or outcome.ending.error is not None:
            code = outcome.error_code
            if code is not None:
                _count(self.errors, code)
        self.duration.add(outcome.duration)
        if attempts:
            self.queue.add(attempts[-1].started - call.started)
        if usage is not None:
            # As floats, which a bound is compared to in half the time.
            self.tokens_in.add(float(usage.prompt_tokens))
            self.tokens_out.add(float(usage.completion_tokens))
            if usage.cached_tokens:
                self.details[_CACHED] += usage.cached_tokens
            if usage.reasoning_tokens:
                self.details[_REASONED] += usage.reasoning_tokens
        if watch is not None and watch.gaps.first and outcome.status < 400:
            self.first_token.add(watch.gaps.first - call.started)
            self.per_token.merge(watch.gaps.histogram)

    def copy(self) -> "CallSeries":
        copied = CallSeries.__new__(CallSeries)
        for name in CallSeries.__slots__:
            setattr(copied, name, getattr(self, name).copy())
        return copied

    def samples(self, labels: dict[str, str]) -> Iterator[Sample]:
        for status, count in self.statuses.items():
            named = {**labels, "status": str(status)}
            yield Sample("gateway_requests_total", "counter", count, _REQUESTS, named)
        for code, count in self.errors.items():
            named = {**labels, "code": str(code)}
            yield Sample("gateway_errors_total", "counter", count, _ERRORS, named)
        for result, count in self.results.items():
            named = {**labels, "result": str(result)}
            yield Sample("gateway_results_total", "counter", count, _RESULTS, named)
        aborts = self.results.get("caller_gone", 0)
        yield Sample("gateway_aborts_total", "counter", aborts, _ABORTS, labels)
        for name, histogram, help_ in (
            ("gen_ai_server_request_duration_seconds", self.duration, _DURATION),
            ("gen_ai_server_time_to_first_token_seconds", self.first_token, _FIRST_TOKEN),
            ("gen_ai_server_time_per_output_token_seconds", self.per_token, _PER_TOKEN),
            ("gateway_queue_time_seconds", self.queue, _QUEUE),
        ):
            if histogram.filled:
                yield Sample(name, "histogram", histogram, help_, labels)
        yield from self._usage(labels)

    def _usage(self, labels: dict[str, str]) -> Iterator[Sample]:
        """The tokens; no engine tells of which modality they are."""
        spent = {**labels, "gen_ai_token_modality": "unknown"}
        for kind, histogram in (("input", self.tokens_in), ("output", self.tokens_out)):
            if not histogram.filled:
                continue
            total = f"gen_ai_client_inference_usage_{kind}_tokens_total"
            yield Sample(total, "counter", histogram.sum, _SPENT[kind], spent)
            name = f"gen_ai_client_inference_operation_{kind}_tokens"
            yield Sample(name, "histogram", histogram, _OF_A_CALL[kind], labels)
            named = {**labels, "gen_ai_token_type": kind}  # the name until release 0.2
            yield Sample("gen_ai_client_token_usage", "histogram", histogram, _USAGE, named)
        for name, count in self.details.items() if self.tokens_in.filled else ():
            yield Sample(name, "counter", count, _DETAILS[name], spent)


_REQUESTS = "Calls that have ended, by the status that the caller was told; 0: it left before."
_ERRORS = (
    "Calls that ended with an error of the gateway, by its code; engine_error: the engine reported"
    " one under status 200 or inside a stream."
)
_RESULTS = "Calls that have ended, by how they went: success, error, aborted, caller_gone."
_ABORTS = "Calls whose caller left before all was sampled."
_DURATION = "Seconds from the call's start to the end of its answer."
_FIRST_TOKEN = "Seconds from the call's start to the first event of its stream."
_PER_TOKEN = "Seconds between the events of a stream."
_QUEUE = "Seconds from the call's start to that of its latest attempt at a worker."
_USAGE = "Tokens of one call, under the name that OpenTelemetry has withdrawn."
_SPENT = {
    "input": "Tokens of prompts, those from a cache included.",
    "output": "Tokens of completions, those of reasoning included.",
}
_OF_A_CALL = {
    "input": "Tokens of the prompts of one call.",
    "output": "Tokens of the completions of one call: as told by the engine, or counted.",
}
_CACHED = "gen_ai_client_inference_usage_cache_read_input_tokens_total"
_REASONED = "gen_ai_client_inference_usage_reasoning_output_tokens_total"
_DETAILS = {
    _CACHED: "Tokens of prompts that came from the engine's cache.",
    _REASONED: "Tokens of completions that were spent on reasoning.",
}
_RETRIES = "Attempts after the first, by how the one before went, and at which worker."


class Tally:
    """All counts of calls; the number of labels that callers can create is bounded."""

    def __init__(self) -> None:
        self._ways: dict[Key, CallSeries] = {}
        self._retries: Counter[tuple[str, str]] = Counter()
        self._absent: dict[str, float] = {}

    def way(self, route: str, model: str, worker: str, frontend: str) -> CallSeries:
        key = (route, model, worker, frontend)
        way = self._ways.get(key)
        if way is None:
            if len(self._ways) >= MAX_SERIES:
                key = (OTHER, OTHER, OTHER, OTHER)
            way = self._ways.setdefault(key, CallSeries())
        return way

    def add_retries(self, call: Call) -> None:
        for attempt in call.attempts[:-1]:
            key = (attempt.worker.id, attempt.result)
            if key in self._retries or len(self._retries) < MAX_SERIES:
                self._retries[key] += 1

    def copy(self) -> "Tally":
        """Return a snapshot, for a thread to read."""
        copied = Tally()
        copied._ways = {key: way.copy() for key, way in self._ways.items()}
        copied._retries = self._retries.copy()
        return copied

    def samples(self) -> Iterator[Sample]:
        names = ("route", "model", "worker", "frontend")
        for key, way in self._ways.items():
            yield from way.samples(dict(zip(names, key, strict=True)))
        for (worker, after), count in self._retries.items():
            labels = {"worker": worker, "after": after}
            yield Sample("gateway_retries_total", "counter", count, _RETRIES, labels)

    def forget(self, present: Collection[str]) -> None:
        """Drop the numbers of workers that have not been `present` for FORGET_AFTER seconds."""
        now = monotonic()
        counted = {key[2] for key in self._ways} | {worker for worker, _ in self._retries}
        absent = counted - {"", OTHER} - set(present)
        self._absent = {worker: self._absent.get(worker, now) for worker in absent}
        gone = {worker for worker, since in self._absent.items() if now - since >= FORGET_AFTER}
        for key in [key for key in self._ways if key[2] in gone]:
            del self._ways[key]
        for retry in [retry for retry in self._retries if retry[0] in gone]:
            del self._retries[retry]


def _count(counts: dict[str | int, int], what: str | int) -> None:
    if what in counts:
        counts[what] += 1
    else:
        key = what if len(counts) < MAX_CODES else OTHER
        counts[key] = counts.get(key, 0) + 1
