"""The step `score` of an evaluation: from the responses to its scores and their files."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Raw

from gateway import NOT_JSON, Database, Storage
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.children.repository import WORK, Repository, Score
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.items import COMPLETED, MISSING, Item
from gateway_plugins.evaluations.rows.jobs import Job, Run
from gateway_plugins.evaluations.running.places import Line, append, put, timestamp

CHUNK = 500
"""Responses that are in memory at a time."""

EXAMPLES = 5

MAX_TYPES, MAX_TYPE = 50, 100
"""Types of errors that are told apart, and characters of each: engines invent them."""


class Absent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `score` gets in place of a response."""

    error: str
    error_code: int | None = None
    error_type: str | None = None
    retry_count: int = 0


class Example(msgspec.Struct, frozen=True):
    """One of the errors that `http_errors` shows."""

    index: int
    error: str
    error_code: int | None
    error_type: str | None


class Errors(msgspec.Struct):
    """The `http_errors` of the details."""

    total_errors: int = 0
    by_code: Counter[str] = msgspec.field(default_factory=Counter)
    by_type: Counter[str] = msgspec.field(default_factory=Counter)
    examples: list[Example] = []

    def add(self, index: int, absent: Absent) -> None:
        self.total_errors += 1
        self.by_code[str(absent.error_code or "none")] += 1
        kind = (absent.error_type or "none")[:MAX_TYPE]
        known = kind in self.by_type or len(self.by_type) < MAX_TYPES
        self.by_type[kind if known else "other"] += 1
        if len(self.examples) < EXAMPLES:
            one = Example(index, absent.error, absent.error_code, absent.error_type)
            self.examples.append(one)


class Scoring:
    """Scores one evaluation. `folder` has what was prepared; `at` is when, in Unix seconds."""

    def __init__(
        self, repository: Repository, storage: Storage, job: Job, run: Run, folder: Path, at: float
    ) -> None:
        self._repository = repository
        self._storage = storage
        self._job = job
        self._run = run
        self._folder = folder
        self._at = at

    async def score(self, results: Path, work: Path) -> dict[str, float | None]:
        """Score it, with files in `work`, which is deleted; return its metrics.

        The files of `results` are complete before this returns. Raises Failed, StorageError.
        """
        try:
            await asyncio.to_thread(work.mkdir, parents=True, exist_ok=True)
            return await self._score(results, work)
        finally:
            await asyncio.to_thread(remove, work)

    async def _score(self, results: Path, work: Path) -> dict[str, float | None]:
        errors = await self._collect(work)
        if errors.total_errors == self._run.total:
            first = errors.examples[0].error if errors.examples else MISSING
            raise Failed(f"none of {self._run.total} items has a response: {first}")
        given = work / "given.json"
        await asyncio.to_thread(self._join, given, work)
        step = Score(name=self._run.name, given=given, folder=work, work=self._folder / WORK)
        await self._repository.score(step)
        await self._repository.read("write", self._plan(errors, work), work)
        return await asyncio.to_thread(self._publish, results, work)

    async def _collect(self, work: Path) -> Errors:
        """Write the responses, one a line, in the order of the requests."""
        errors, after, total = Errors(), -1, self._run.total or 0
        with (work / "responses.jsonl").open("wb") as file:
            while after + 1 < total:
                first, last = after + 1, min(after + CHUNK, total - 1)
                found = await self._storage.read(lambda db, a=first, b=last: self._part(db, a, b))  # type: ignore[misc]
                await asyncio.to_thread(_write, file, found, errors)
                after = last
        return errors

    def _part(self, db: Database, first: int, last: int) -> list[tuple[int, bytes | Absent]]:
        number = self._run.number
        answers = items.answers(db, number, first, last)
        rows = {one.place: one for one in items.page(db, number, first - 1, last - first + 1)}
        return [(place, _response(rows.get(place), answers)) for place in range(first, last + 1)]

    def _join(self, given: Path, work: Path) -> None:
        """Write what `score` gets on standard input. Raises Failed."""
        try:
            with given.open("wb") as file:
                file.write(b'{"requests":[')
                _copy_lines(self._folder / "requests.jsonl", file)
                file.write(b'],"responses":[')
                _copy_lines(work / "responses.jsonl", file)
                file.write(b'],"metadata":')
                file.write((self._folder / "metadata.json").read_bytes() + b"}")
        except OSError as error:
            raise Failed(f"what was prepared is gone: {error}") from None

    def _plan(self, errors: Errors, work: Path) -> dict[str, object]:
        record = {
            "job_id": self._job.id,
            "eval_name": self._run.name,
            "model": self._job.model,
            "timestamp": timestamp(self._at),
        }
        return {
            "result": str(work / "score.json"),
            "stdout": str(work / "score.out"),
            "requests": str(self._folder / "requests.jsonl"),
            "responses": str(work / "responses.jsonl"),
            "metadata": str(self._folder / "metadata.json"),
            "record": record,
            "errors": msgspec.to_builtins(errors),
            "folder": str(work),
            "name": self._run.name,
        }

    def _publish(self, results: Path, work: Path) -> dict[str, float | None]:
        name = self._run.name
        try:
            metrics = msgspec.json.decode((work / "metrics.json").read_bytes(), type=dict[str, Raw])
            for suffix in ("interactions.txt", "analysis.jsonl", "debug.jsonl", "results.json"):
                file = f"{name}_{suffix}"
                put(work / file, results / file, keep=suffix == "results.json")
            line = Line(
                self._job.id,
                name,
                self._job.model,
                timestamp(self._at),
                Raw(msgspec.json.encode(metrics)),
            )
            append(results.parent / "results.jsonl", line)
        except (OSError, *NOT_JSON) as error:
            raise Failed(f"the results cannot be written: {error}") from None
        return {metric: number_of(value) for metric, value in metrics.items()}


def number_of(value: Raw) -> float | None:
    """Return a metric as a number; None if it is none."""
    try:
        return msgspec.json.decode(value, type=float)
    except NOT_JSON:
        return None


def _response(item: Item | None, answers: dict[int, bytes]) -> bytes | Absent:
    if item is None:
        return Absent(MISSING)
    answer = answers.get(item.place)
    if item.state == COMPLETED:
        return Absent(MISSING) if answer is None else answer
    return Absent(item.error or MISSING, item.status, item.code, max(item.tries - 1, 0))


def _write(file: BinaryIO, found: Iterable[tuple[int, bytes | Absent]], errors: Errors) -> None:
    for place, one in found:
        if isinstance(one, Absent):
            errors.add(place, one)
            file.write(msgspec.json.encode(one) + b"\n")
        else:
            file.write(msgspec.json.format(one, indent=-1) + b"\n")


def _copy_lines(source: Path, target: BinaryIO) -> None:
    """Write the lines of a file with commas between them."""
    with source.open("rb") as lines:
        target.writelines(
            b"," * (number > 0) + line.rstrip(b"\n") for number, line in enumerate(lines)
        )


async def score_again(
    scoring: Scoring, storage: Storage, run: Run, results: Path, work: Path
) -> dict[str, float | None]:
    """Score an evaluation that was scored before. Raises Failed, StorageError."""
    metrics = await scoring.score(results, work)
    await storage.write(lambda db: _rescored(db, run, metrics))
    return metrics


def _rescored(db: Database, run: Run, metrics: dict[str, float | None]) -> None:
    jobs.set_metrics(db, run.number, metrics)
    if run.state == "failed":
        jobs.move(db, run, "completed", time.time())
