"""What must hold at the end of a soak, each with the figures by which it does or does not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import msgspec

from soak.books import Books
from soak.logs import Log
from soak.plan import Plan
from soak.sampling import MIB, Sample, slope_of

IDLE = 80 * MIB
"""Bytes of a gateway that has served a few calls."""

STREAM = 40 * 1024
"""Bytes that a stream takes on which nothing comes."""

ENOUGH = 200
"""Streams of which it can be told."""

WARM = 300.0
"""Seconds of load after which memory is to grow no more; of a soak under ten minutes the half."""

GROWTH = MIB / 600
"""Bytes a second that a slope may surely have: where it is measured for long, that is itself."""

SHORTEST = 60.0
"""Seconds of load under which memory tells nothing."""

GROWN = 0.05
GROWN_SHORT = 0.15
"""Shares by which the end may be above the beginning; the larger one where a soak is short."""

WAL = 64 * MIB
"""`journal_size_limit`, to which a log is cut once its content is in the database."""

WAL_CLOSED = MIB

SPARE = {"fds": 12, "tasks": 3, "connections": 0}
"""How many more than before the load there may be after it: readers of the file, probes."""

POINTS = 300
"""Samples of which a slope is taken at most."""


class Check(msgspec.Struct, frozen=True):
    """`figures` are for people."""

    name: str
    held: bool
    figures: str


class Seen(msgspec.Struct, kw_only=True):
    """All that is judged. `before` and `after` the load all is quiet; `still` are streams held.

    `metrics` are those of the end, `stored` the traces in the file then, of which `young` ones must
    be there, and `overdue` ones must not; `took` is in seconds.
    """

    plan: Plan
    before: Sample
    after: Sample
    still: Sample
    samples: list[Sample]
    operations: Mapping[str, int]
    metrics: Mapping[str, float] = {}
    stored: int = 0
    young: int = 0
    overdue: int = 0
    verified: list[str] = []
    integrity: str = ""
    wal_closed: int = 0
    exit_status: int = -1
    took: float = 0.0


def judge(seen: Seen, books: Books, log: Log) -> list[Check]:
    return [
        *_of_memory(seen),
        *_of_what_is_held(seen),
        *_of_storage(seen),
        *_of_calls(seen, books, log),
        *_of_the_process(seen, log),
    ]


def _of_memory(seen: Seen) -> Iterator[Check]:
    idle = seen.before.rss
    yield Check("memory: idle", idle <= IDLE, f"{_mib(idle)}, at most {_mib(IDLE)}")
    count = seen.still.in_flight
    each = (seen.still.rss - idle) / max(count, 1)
    held = count >= seen.plan.still and (each <= STREAM or count < ENOUGH)
    figures = f"{each / 1024:.1f} KiB each of {count}, at most 40 where they are {ENOUGH} or more"
    yield Check("memory: each idle stream", held, figures)
    yield _of_growth(seen.samples)


class Rule(msgspec.Struct, frozen=True):
    """Memory is that of the samples from `since` on, and begins with those up to `until`, seconds.

    It may be above its beginning by the share `most`, and surely rise by `slope` bytes a second.
    """

    since: float
    until: float
    most: float
    slope: float
    words: str


def rule_for(began: float, ended: float) -> Rule:
    """By how long the load lasted: a short one is over before all caches are full."""
    seconds = ended - began
    if seconds < SHORTEST:
        return Rule(began, ended, math.inf, math.inf, "too short to tell")
    if seconds < 2 * WARM:
        words = f"at most {GROWN_SHORT:.0%}; too short for a slope"
        middle = began + seconds / 2
        return Rule(middle, middle + seconds / 10, GROWN_SHORT, math.inf, words)
    words = f"at most {GROWN:.0%} and {GROWTH * 600 / MIB:g} MiB"
    return Rule(began + WARM, began + 2 * WARM, GROWN, GROWTH, words)


def _of_growth(samples: Sequence[Sample]) -> Check:
    began, ended = samples[0].at, samples[-1].at
    rule = rule_for(began, ended)
    warm = [one for one in samples if one.at >= rule.since]
    first = median(one.rss for one in warm if one.at <= max(rule.until, warm[0].at))
    last = median(one.rss for one in warm[-max(len(warm) // 10, 1) :])
    some = warm[:: -(-len(warm) // POINTS)]
    slope = slope_of([(one.at, float(one.rss)) for one in some])
    grown = last / first - 1
    figures = (
        f"from {_mib(first)} after {rule.since - began:.0f} s to {_mib(last)} after"
        f" {ended - began:.0f} s, {grown:+.1%}, {slope.median * 600 / MIB:+.2f} MiB in 10 min,"
        f" surely {slope.least * 600 / MIB:+.2f}; {rule.words}"
    )
    return Check("memory: no growth", grown <= rule.most and slope.least <= rule.slope, figures)


def is_back(before: Sample, after: Sample, name: str) -> bool:
    more: int = getattr(after, name) - getattr(before, name)
    return more <= SPARE[name]


def _of_what_is_held(seen: Seen) -> Iterator[Check]:
    before, after = seen.before, seen.after
    for name, spare in SPARE.items():
        one, other = getattr(before, name), getattr(after, name)
        figures = f"{one} before the load, {other} after it, {spare} more are allowed"
        yield Check(f"{name} are back to where they were", is_back(before, after, name), figures)
    figures = f"in flight {after.in_flight}, in the queue {after.queue}, unstored {after.waiting}"
    yield Check("nothing is in flight", not after.busy, figures)


def _of_storage(seen: Seen) -> Iterator[Check]:
    most = max(sample.wal for sample in seen.samples)
    yield Check("the log of the database", most <= 2 * WAL, f"{_mib(most)} at most, of {_mib(WAL)}")
    figures = f"{_mib(seen.wal_closed)} after the end"
    yield Check("the log is small at the end", seen.wal_closed <= WAL_CLOSED, figures)
    yield Check("the database is whole", seen.integrity == "ok", seen.integrity[:200])


def _of_calls(seen: Seen, books: Books, log: Log) -> Iterator[Check]:
    tally = books.tally
    figures = (
        f"{tally.compared} calls, {tally.rows} in the ledger, {tally.exact} exact to the token,"
        f" {tally.partial} within what was said and read; {tally.problems} problems"
    )
    yield Check("each call is counted as it went", not tally.problems, figures)
    told, most = seen.metrics["gateway_traces_total"], tally.traced + tally.deleted
    figures = f"{tally.traced} looked at, {told:.0f} told, {tally.deleted} of deleted sessions"
    yield Check("each call has its trace", tally.traced <= told <= most, figures)
    figures = (
        f"{seen.stored} kept of {told:.0f}, {seen.young} of them young and all there,"
        f" {seen.overdue} overdue"
    )
    held = seen.young <= seen.stored and not seen.overdue
    yield Check("retention deletes what is old alone", held, figures)
    counted = seen.metrics["gateway_usage_calls_total"]
    yield Check("usage = metrics", counted == tally.rows, f"{counted:.0f} told, {tally.rows} rows")
    ended = seen.metrics["gateway_requests_total"]
    held = ended == log.calls
    yield Check("access log = metrics", held, f"{log.calls} lines, {ended:.0f} told")
    figures = " / ".join(seen.verified[:5]) or "nothing differs"
    yield Check("usage verify", not seen.verified, figures)
    yield Check("no 500 of the gateway's own", not books.failures, f"{books.failures} of them")


def _of_the_process(seen: Seen, log: Log) -> Iterator[Check]:
    figures = f"{len(log.grave)} grave lines, {sum(log.kinds.values())} in all"
    yield Check("nothing grave in the log", not log.grave, figures)
    held = seen.exit_status == 0 and seen.took <= seen.plan.drain + 5.0
    figures = f"status {seen.exit_status} after {seen.took:.1f} s, drain is {seen.plan.drain:.0f} s"
    yield Check("it ends at SIGTERM", held, figures)


def problems_of(checks: Sequence[Check], books: Books, log: Log) -> list[str]:
    failed = [f"{one.name}: {one.figures}" for one in checks if not one.held]
    return [*failed, *books.problems[:50], *log.grave[:50]]


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"
