"""What a batch's results, the engine and the ledger say, and what must hold of all three."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
from accounting.tap import Served
from openai.types import Batch
from support.records.usage_rows import Row

GATEWAY = "gateway"
"""By this name the gateway itself asks an engine, for its models for instance."""


class Snapshot(msgspec.Struct, frozen=True):
    """What was committed as a gateway died, after `asked` requests to the engine."""

    asked: int
    done: set[str]
    running: int


class Line(msgspec.Struct, frozen=True):
    """A line of a file of results."""

    custom_id: str
    id: str
    status: int
    body: Any
    prompt_tokens: int
    completion_tokens: int


class Books(msgspec.Struct):
    batch: str = ""
    ended: Batch | None = None
    lines: list[Line] = []
    served: list[Served] = []
    rows: list[Row] = []
    snapshots: list[Snapshot] = []

    @property
    def generations(self) -> int:
        """How many generations the engine has begun."""
        return sum(page.call_id != GATEWAY for page in self.served)

    def read(self, content: bytes) -> None:
        """Read a file of results."""
        for text in content.splitlines():
            found = json.loads(text)
            response = found["response"] or {"status_code": 0, "body": {}}
            usage = response["body"].get("usage") or {}
            one = Line(
                found["custom_id"],
                found["id"],
                response["status_code"],
                response["body"],
                usage.get("prompt_tokens", 0),
                usage.get("completion_tokens", 0),
            )
            self.lines.append(one)


def problems_of(books: Books, lines: int) -> Iterator[str]:
    """Yield what is not as it must be."""
    yield from _of_lines(books, lines)
    yield from _of_engine(books)
    yield from _of_usage(books, lines)


def _of_lines(books: Books, lines: int) -> Iterator[str]:
    """Each request has one line in one of the files, and it has been answered."""
    found = Counter(one.custom_id for one in books.lines)
    expected = {f"line-{number}" for number in range(lines)}
    yield from (f"{name}: no line" for name in sorted(expected - found.keys()))
    yield from (f"{name}: nobody's" for name in sorted(found.keys() - expected))
    yield from (f"{name}: {count} lines" for name, count in found.items() if count > 1)
    yield from (f"{one.custom_id}: {one.status}" for one in books.lines if one.status != 200)
    batch = books.ended
    if batch is None or batch.status != "completed":
        yield f"the batch is {batch and batch.status}"
    elif batch.request_counts is None or batch.request_counts.completed != lines:
        yield f"the batch counts {batch.request_counts}"


def _of_engine(books: Books) -> Iterator[str]:
    """Each line is what the engine said, whose answer was never asked for once it was committed."""
    pages: defaultdict[str, list[tuple[int, Served]]] = defaultdict(list)
    for number, page in enumerate(books.served):
        pages[page.call_id].append((number, page))
    for line in books.lines:
        whole = [json.loads(page.body) for _, page in pages[line.id] if page.whole]
        if line.body not in whole:
            yield f"{line.custom_id}: the engine did not say so"
    for snapshot in books.snapshots:
        for item_id in snapshot.done:
            if any(number >= snapshot.asked for number, _ in pages[item_id]):
                yield f"{item_id}: asked for again after its answer was committed"
    known = {GATEWAY, *(line.id for line in books.lines)}
    yield from (f"{one}: nobody's" for one in sorted(pages.keys() - known))


def _of_usage(books: Books, lines: int) -> Iterator[str]:
    """What is billed is what the engine said of the answers that were committed, once each."""
    prompt = sum(one.prompt_tokens for one in books.lines)
    completion = sum(one.completion_tokens for one in books.lines)
    billed = [row for row in books.rows if row.outcome == "success"]
    if len(billed) != lines:
        yield f"{len(billed)} calls are billed for {lines} lines"
    for name, said, summed in (
        ("prompt tokens", sum(row.prompt_tokens for row in billed), prompt),
        ("completion tokens", sum(row.completion_tokens for row in billed), completion),
    ):
        if said != summed:
            yield f"{said} {name} are billed, and the engine says {summed}"
    others = {(row.source, row.outcome) for row in books.rows} - {("batch", "success")}
    if others - {("batch", "error"), ("batch", "abort")}:
        yield f"calls of other kinds: {others}"
    usage = None if books.ended is None else getattr(books.ended, "usage", None)
    counted = None if usage is None else (usage.input_tokens, usage.output_tokens)
    if counted != (prompt, completion):
        yield f"the batch says {counted}, its lines {(prompt, completion)}"
