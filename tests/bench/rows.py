"""The rows of the table: what each measures, beside what, and what is to be reached."""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from bench.found import Found
from bench.stack import gateway, without
from bench.systems import DIRECT, System
from bench.works import Calls, Idle, Work

Comparison = Literal["times", "more", "is"]
"""How an outcome comes from two figures: their ratio, their difference; `is`: it is the first."""


class Line(msgspec.Struct, kw_only=True):
    """One figure of the gateway's, next to that of `beside`; None: it was not measured.

    `outcome` is what comes of both by the comparison, `most` what it is to be at most, and `met` is
    None where there is nothing to reach, or nothing was measured.
    """

    what: str
    figure: float | None
    unit: str
    beside: str = ""
    other: float | None = None
    comparison: Comparison = "times"
    most: float | None = None
    outcome: float | None = None
    met: bool | None = None

    def __post_init__(self) -> None:
        self.outcome = _outcome(self.figure, self.other, self.comparison)
        if self.outcome is not None and self.most is not None:
            self.met = self.outcome <= self.most


def _outcome(figure: float | None, other: float | None, comparison: Comparison) -> float | None:
    if figure is None or comparison == "is":
        return figure
    if other is None or (comparison == "times" and other <= 0):
        return None
    return figure / other if comparison == "times" else figure - other


class Row(msgspec.Struct, frozen=True):
    """`systems` do `works` beside the `peers` of those names, as far as there are such."""

    name: str
    systems: tuple[System, ...]
    works: tuple[Work, ...]
    peers: tuple[str, ...]
    lines: Callable[[Found], Iterator[Line]]


ALL = ("nginx", "vllm-router", "sglang-router", "rllm", "litellm")
ROUTERS = ("nginx", "vllm-router", "sglang-router")

GATEWAY = gateway()
FRESH = gateway("gateway, fresh")
"""One that has done nothing else yet."""

NO_CAPTURE = gateway("gateway, no capture", without("trace_capture"))
CORE = gateway("gateway, core alone", ())

PLAIN = Calls(name="plain")
STREAM = Calls(name="stream", stream=True)
PACED = Calls(name="paced", stream=True, callers=200, tokens=100, gap=0.02, spread=2.0, least=8.0)
"""200 streams of 50 tokens a second, which do not begin all at once."""

SHORT = Calls(name="short", stream=True, callers=100, gap=0.02, spread=1.3)
LONG = Calls(name="long", callers=1, prompt_bytes=400_000, prompt_tokens=100_000)
BESIDE_LONG = msgspec.structs.replace(SHORT, name="short beside long", beside=LONG)
BESIDE_LONG_STREAM = msgspec.structs.replace(
    SHORT, name="short beside long streams", beside=msgspec.structs.replace(LONG, stream=True)
)
IDLE = Idle(name="idle")


def plain(found: Found) -> Iterator[Line]:
    for other, most in (("vllm-router", 2.0), ("rllm", 1 / 30)):
        yield _cost(found, "a plain call, captured", GATEWAY, PLAIN, other, most)


def no_capture(found: Found) -> Iterator[Line]:
    yield _cost(found, "a plain call, not captured", NO_CAPTURE, PLAIN, "vllm-router", 1.0)


def core(found: Found) -> Iterator[Line]:
    yield _cost(found, "a plain call, the core alone", CORE, PLAIN, "nginx", None)
    yield _cost(found, "an event, the core alone", CORE, STREAM, "nginx", None)


def stream(found: Found) -> Iterator[Line]:
    yield _cost(found, "an event as fast as it comes", GATEWAY, STREAM, "vllm-router", 1.0)


def paced(found: Found) -> Iterator[Line]:
    yield _cost(found, "an event of 200 paced streams", GATEWAY, PACED, "vllm-router", 1.5)


def latency(found: Found) -> Iterator[Line]:
    yield _added(found, "time to the first token, p50", "ttft_p50", 1.0)
    yield _added(found, "time to the first token, p99", "ttft_p99", 5.0)
    yield _added(found, "gap between tokens, p99", "gap_p99", 2.0)


def long_prompt(found: Found) -> Iterator[Line]:
    alone = found.median(GATEWAY.name, SHORT.name, "gap_p99")
    for work, what in ((BESIDE_LONG, "prompts"), (BESIDE_LONG_STREAM, "prompts, streamed")):
        yield Line(
            what=f"gap of 100 streams beside long {what}, p99",
            figure=found.median(GATEWAY.name, work.name, "gap_p99"),
            unit="ms",
            beside="without",
            other=alone,
            comparison="more",
            most=10.0,
        )


def memory(found: Found) -> Iterator[Line]:
    idle = found.median(FRESH.name, IDLE.name, "idle_memory")
    each = found.median(FRESH.name, IDLE.name, "per_stream")
    yield Line(what="memory, idle", figure=idle, unit="MiB", comparison="is", most=80.0)
    yield Line(what="memory of an idle stream", figure=each, unit="KiB", comparison="is", most=40.0)


def _cost(
    found: Found, what: str, system: System, work: Calls, other: str, most: float | None
) -> Line:
    figure = "per_event" if work.stream else "per_call"
    return Line(
        what=what,
        figure=found.median(system.name, work.name, figure),
        unit="µs",
        beside=other,
        other=found.median(other, work.name, figure),
        most=most,
    )


def _added(found: Found, what: str, figure: str, most: float) -> Line:
    return Line(
        what=what,
        figure=found.median(GATEWAY.name, PACED.name, figure),
        unit="ms",
        beside=DIRECT.name,
        other=found.median(DIRECT.name, PACED.name, figure),
        comparison="more",
        most=most,
    )


ROWS = (
    Row("plain", (GATEWAY,), (PLAIN,), ALL, plain),
    Row("no-capture", (NO_CAPTURE,), (PLAIN,), ("vllm-router",), no_capture),
    Row("core", (CORE,), (PLAIN, STREAM), ("nginx",), core),
    Row("stream", (GATEWAY,), (STREAM,), ALL, stream),
    Row("paced", (GATEWAY,), (PACED,), ROUTERS, paced),
    Row("latency", (GATEWAY, DIRECT), (PACED,), (), latency),
    Row("long-prompt", (GATEWAY,), (SHORT, BESIDE_LONG, BESIDE_LONG_STREAM), (), long_prompt),
    Row("memory", (FRESH,), (IDLE,), (), memory),
)
