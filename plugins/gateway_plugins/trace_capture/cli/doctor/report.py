"""Writes down what was found: a table and numbered problems for people, or JSON."""

from collections.abc import Iterator, Sequence

import msgspec

from gateway_plugins.trace_capture.cli.doctor.results import Check, Difference, Problem, Verdict

MAX_SAID = 3
"""Different details of one problem that are told."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A check; `problems` are numbers of problems."""

    kind: str
    verdict: Verdict
    tokens: int
    note: str
    problems: list[int]


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of a worker."""

    worker: str
    model: str
    checks: list[Entry]


class Told(msgspec.Struct, kw_only=True):
    """A problem, and the workers and kinds of calls that have it."""

    number: int
    reason: str
    workers: list[str]
    kinds: list[str]
    what: list[str]
    what_to_do: str
    difference: Difference | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found; `fine` if there is no problem."""

    fine: bool
    workers: list[Examined]
    problems: list[Told]


def report_of(checks: Sequence[Check]) -> Report:
    """Return the report: problems with the same reason and the same advice are one."""
    told: dict[tuple[str, str], Told] = {}
    examined: dict[str, Examined] = {}
    for check in checks:
        numbers = [_add(told, check, problem).number for problem in check.problems]
        worker = Examined(worker=check.worker, model=check.model, checks=[])
        examined.setdefault(check.worker, worker).checks.append(
            Entry(
                kind=check.kind,
                verdict=check.verdict,
                tokens=check.tokens,
                note=check.note,
                problems=numbers,
            )
        )
    return Report(fine=not told, workers=list(examined.values()), problems=list(told.values()))


def _add(told: dict[tuple[str, str], Told], check: Check, problem: Problem) -> Told:
    key = problem.reason, problem.what_to_do
    if key not in told:
        told[key] = Told(
            number=len(told) + 1,
            reason=problem.reason,
            workers=[],
            kinds=[],
            what=[],
            what_to_do=problem.what_to_do,
            difference=problem.difference,
        )
    one = told[key]
    for known, new in (
        (one.workers, check.worker),
        (one.kinds, check.kind),
        (one.what, problem.what),
    ):
        if new not in known:
            known.append(new)
    return one


def lines_of(report: Report) -> Iterator[str]:
    """Yield the lines for people; nothing that an engine says can move the cursor."""
    for worker in report.workers:
        yield _shown(f"{worker.worker}  {worker.model}".rstrip())
        for entry in worker.checks:
            yield f"  {_shown(_line(entry))}"
        yield ""
    for told in report.problems:
        yield from map(_shown, _paragraph(told, several=len(report.workers) > 1))
        yield ""
    yield _sum(report)


def _line(entry: Entry) -> str:
    seen = ", ".join(f"#{number}" for number in entry.problems)
    tokens = f"{entry.tokens} tokens" if entry.tokens else ""
    rest = "  ".join(part for part in (tokens, seen, entry.note) if part)
    return f"{entry.kind:22}  {entry.verdict:10}  {rest}".rstrip()


def _paragraph(told: Told, *, several: bool) -> Iterator[str]:
    where = f"{', '.join(told.workers)}: " if several else ""
    yield f"{told.number}. {told.reason}: {where}{'; '.join(told.kinds)}"
    for what in told.what[:MAX_SAID]:
        yield f"   {what}"
    if told.difference is not None:
        yield from _of_difference(told.difference)
    yield f"   What to do: {told.what_to_do}"


def _of_difference(left: Difference) -> Iterator[str]:
    yield (
        f"   at token {left.at}: expected {_token(left.expected_id, left.expected_text)}, found "
        f"{_token(left.found_id, left.found_text)}"
    )
    if left.text_before:
        yield f"   after     {left.text_before!r}"
    if left.expected_after and left.found_after:
        yield f"   sampled   {left.expected_after!r}"
        yield f"   rendered  {left.found_after!r}"


def _token(number: int | None, text: str | None) -> str:
    if number is None:
        return "the end"
    return str(number) if text is None else f"{number} {text!r}"


def _sum(report: Report) -> str:
    if report.fine:
        return "All of these calls can be trained on."
    count = len(report.problems)
    return f"{count} problem{'s' if count > 1 else ''}; docs/doctor.md has more on each reason."


def _shown(line: str) -> str:
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
