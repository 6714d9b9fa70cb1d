"""The step `prepare` of an evaluation: from its code to rows for its items."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from gateway import NOT_JSON, Storage
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.children.repository import Prepare, Repository
from gateway_plugins.evaluations.options import Options
from gateway_plugins.evaluations.rows import items
from gateway_plugins.evaluations.rows.jobs import Job, Run

CHUNK = 5_000
"""Items that one transaction adds."""

Row = tuple[int, int, int]


class Prepared(msgspec.Struct):
    """What is in `prepared.json`."""

    total: int
    max_concurrency: int | None


async def prepare(
    repository: Repository,
    storage: Storage,
    options: Options,
    job: Job,
    run: Run,
    folder: Path,
    arguments: dict[str, str],
) -> None:
    """Run the evaluation's `prepare`, and add its items. Raises Failed, StorageError."""
    await asyncio.to_thread(_renew, folder)
    step = Prepare(
        name=run.name,
        model=job.model,
        arguments=arguments,
        is_base=bool(job.is_base),
        folder=folder,
    )
    await repository.prepare(step)
    plan = {
        "result": str(folder / "prepare.json"),
        "stdout": str(folder / "prepare.out"),
        "model": job.model,
        "folder": str(folder),
        "most": options.max_items,
        "longest": options.max_body_bytes,
        "reasoning": options.reasoning_max_tokens if job.reasoning else None,
    }
    await repository.read("pack", plan, folder)
    await _add(storage, run.number, folder)
    await asyncio.to_thread(_remove_result, folder)


def _renew(folder: Path) -> None:
    remove(folder)
    folder.mkdir(parents=True)


def _remove_result(folder: Path) -> None:
    """What `prepare` returned is in other files now."""
    (folder / "prepare.json").unlink(missing_ok=True)


async def _add(storage: Storage, run: int, folder: Path) -> None:
    await storage.write(lambda db: items.clear(db, run))
    rows = _rows(folder / "bodies.jsonl")
    while chunk := await asyncio.to_thread(lambda: list(islice(rows, CHUNK))):
        await storage.write(lambda db, chunk=chunk: items.add(db, run, chunk))  # type: ignore[misc]
    try:
        content = await asyncio.to_thread((folder / "prepared.json").read_bytes)
        found = msgspec.json.decode(content, type=Prepared)
    except (OSError, *NOT_JSON) as error:
        raise Failed(f"what was prepared cannot be read: {error}") from None
    await storage.write(lambda db: items.prepared(db, run, found.total, found.max_concurrency))


def _rows(file: Path) -> Iterator[Row]:
    """Yield the number of each line, where it begins, and its bytes."""
    at = 0
    with file.open("rb") as lines:
        for place, line in enumerate(lines):
            yield place, at, len(line)
            at += len(line)
