"""A call and an event take no more steps than they did: performance guarded without a clock."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_plugins.otel.spans.conventions import GenAi
from gateway_plugins.otel.spans.spans import spans_of
from support.otel.finished import finished_call
from support.records.step_counts import (
    STACK,
    Steps,
    plain,
    steps_beside_others,
    steps_of,
    stream,
)

from gateway import Histogram
from gateway.kernel import active
from gateway.pipeline.exchange import Exchange
from gateway.plugins.chains import Chains, Failures, Hook
from gateway.telemetry.server_timing import BOUNDS
from gateway.telemetry.trace_context import traced_headers
from gateway.testing import make_call

CALLS = 8
SHORT, LONG = 8, 64
TOLERANCE = 1.08
"""What goes into a commit, and so what a commit costs a call, varies from run to run."""

CORE: Sequence[str] = ()
OFF = tuple(name for name in STACK if name != "trace_capture")


@pytest.mark.usefixtures("kernel_of_test")
@pytest.mark.parametrize(
    ("plugins", "native", "python"),
    [(CORE, 182, 192), (OFF, 420, 435), (STACK, 693, 800)],
    ids=["core", "off", "stack"],
)
async def test_plain_call_stays_within_its_step_budget(
    plugins: Sequence[str], native: int, python: int, tmp_path: Path
) -> None:
    most = native if active().name == "native" else python
    assert await steps_of(plugins, plain(), tmp_path, CALLS) < most * TOLERANCE


@pytest.mark.usefixtures("kernel_of_test")
@pytest.mark.parametrize(
    ("plugins", "native", "python"),
    [(CORE, 330, 377), (OFF, 690, 1_060), (STACK, 910, 1_540)],
    ids=["core", "off", "stack"],
)
async def test_short_stream_stays_within_its_step_budget(
    plugins: Sequence[str], native: int, python: int, tmp_path: Path
) -> None:
    """Its first events, its end and its usage: each costs more than the many between them."""
    most = native if active().name == "native" else python
    assert await steps_of(plugins, stream(SHORT), tmp_path, CALLS) < most * TOLERANCE


@pytest.mark.usefixtures("kernel_of_test")
@pytest.mark.parametrize(
    ("plugins", "native", "python"),
    [(CORE, 4, 15), (OFF, 4.3, 34), (STACK, 5, 43)],
    ids=["core", "off", "stack"],
)
async def test_stream_event_stays_within_its_step_budget(
    plugins: Sequence[str], native: float, python: float, tmp_path: Path
) -> None:
    most = native if active().name == "native" else python
    few, many = [
        await steps_of(plugins, stream(tokens), _folder(tmp_path, tokens), CALLS)
        for tokens in (SHORT, LONG)
    ]
    assert (many - few) / (LONG - SHORT) < most * TOLERANCE


async def test_wait_for_a_slot_stays_within_its_step_budget(tmp_path: Path) -> None:
    """What a call costs more if it waits in the queue, with one wake-up and a second choice."""
    folders = _folder(tmp_path, 8), _folder(tmp_path, 256)
    waiting, passing = [
        await steps_beside_others(["backpressure"], folder, slots=int(folder.name))
        for folder in folders
    ]
    assert waiting - passing < 86 * TOLERANCE


@pytest.mark.usefixtures("kernel_of_test")
@pytest.mark.parametrize(
    ("name", "native", "python"), [("otel, not sampled", 4, 5.5), ("otel", 81, 90)]
)
async def test_spans_stay_within_their_step_budget(
    name: str, native: float, python: float, tmp_path: Path
) -> None:
    """What the event loop does for the spans of a call, and for one that has none."""
    most = native if active().name == "native" else python
    without, with_spans = [
        await steps_of(names, plain(), _folder(tmp_path, place), CALLS)
        for place, names in enumerate((CORE, (name,)))
    ]
    assert with_spans - without < most * TOLERANCE


def test_making_the_spans_of_a_call_stays_within_its_step_budget() -> None:
    """What the exporter's thread does for a call, without the encoding, which is C."""
    call = finished_call()
    spans_of(call, GenAi())  # the first one fills caches
    steps = Steps()
    with steps:
        assert len(spans_of(call, GenAi())) == 2
    assert steps.taken < 74 * TOLERANCE


def test_step_counter_counts_python_frames_and_c_functions() -> None:
    steps = Steps()
    with steps:
        _one()
        len(())
    # Beside `_one` and `len`: leaving the block, and that it stops counting.
    assert 2 <= steps.taken <= 4


def _one() -> None:
    pass


def _folder(parent: Path, tokens: int) -> Path:
    folder = parent / str(tokens)
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("says", "most"), [("nobody", 4), (None, 15), (False, 16), (True, 16)], ids=str
)
def test_trace_context_stays_within_its_step_budget(says: str | bool | None, most: int) -> None:
    """A call that is part of no trace costs a look at its headers, and no random digit."""
    call, steps = make_call(), Steps()
    if says == "nobody":
        with steps:
            assert call.distributed_trace is None
    else:
        chains = Chains(Failures(), sample_trace=(Hook("sampler", lambda *_: says),))
        exchange = Exchange(call, chains)
        with steps:
            traced_headers(exchange.call.headers, exchange.call.trace_context, "ab" * 8)
    assert steps.taken <= most


async def test_times_of_a_call_stay_within_their_step_budget() -> None:
    """The header `Server-Timing`, and the histogram of own overhead."""
    call, steps = make_call(), Steps()
    exchange = Exchange(call, Chains(Failures()))
    exchange.tell_times("header", Histogram(BOUNDS))
    exchange.reply.start(200, [])
    with steps:
        exchange.reply.send_head()
    assert b"server-timing" in dict(call.caller.headers)
    assert steps.taken <= 13
