"""`gateway batch import`: queues the requests of a file, without a gateway or beside one."""

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gateway import ConfigError, FileChanges, Principal, StorageError, TooManyRequests
from gateway_plugins.batch.batches.input.lines import count, lines_of
from gateway_plugins.batch.cli.open_file import options_of, settings_of, to_change
from gateway_plugins.batch.cli.output import Progress, complain, say
from gateway_plugins.batch.cli.requests import Mistaken, Reader, Request
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.items import NewItem, Owner
from gateway_plugins.batch.queue.submission import Room, add, principal_number

MAX_MISTAKES = 100
"""Bad lines that are named."""

SLICE_LINES, SLICE_BYTES = 100, 512 * 1024
"""Lines, and bytes of bodies, of one transaction: commits of calls wait for it."""

Numbered = tuple[int, Request]
"""A request, and the number of its line, from 1."""


class Imported(msgspec.Struct, frozen=True):
    """What the command prints of each item."""

    line: int
    id: str
    custom_id: str | None


def import_file(arguments: argparse.Namespace) -> int:
    """Check the whole file, then queue all of its requests."""
    settings = settings_of(arguments)
    options, path = options_of(settings), Path(arguments.file)
    reader = Reader(arguments.endpoint, options.max_body_bytes, arguments.priority)
    principal = None
    if arguments.key is not None:
        principal = Principal(arguments.key, frozenset({"batch"}))
    with to_change(settings, "POST /v1/batches") as file:
        try:
            lines = count(path)
            requests = _check(path, lines, reader)
            _queue(file, Source(path, reader, lines, requests), Owner(principal), options)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    return 0


class Source(msgspec.Struct, frozen=True):
    """A checked file: how many `lines` and `requests` it has."""

    path: Path
    reader: Reader
    lines: int
    requests: int


def _check(path: Path, lines: int, reader: Reader) -> int:
    """Return how many requests the file has. Raises ConfigError, which names all bad lines."""
    found, mistakes = 0, list[str]()
    with Progress("lines checked", lines) as progress:
        for line in lines_of(path, reader.most):
            try:
                reader.read(line)
                found += 1
            except Mistaken as error:
                mistakes.append(f"{path}:{line.number}: {error}")
                if len(mistakes) >= MAX_MISTAKES:
                    mistakes.append(f"{path}: no line after the {MAX_MISTAKES}th bad one was read")
                    break
            progress.show(line.number)
    if mistakes or not found:
        raise ConfigError(*(mistakes or [f"{path}: has no request"]))
    return found


def _queue(file: FileChanges, source: Source, owner: Owner, options: Options) -> None:
    """Queue the requests in slices. Raises ConfigError, StorageError and OSError."""
    now, done = time.time(), 0
    principal = _begin(file, owner, options, source.requests)
    try:
        with Progress("items queued", source.requests) as progress:
            for some in _slices(source):
                items = [one.item(now, now + options.deadline) for _, one in some]
                file.write(partial(add, owner=owner.id, principal=principal, items=items))
                done += len(items)
                _tell(some, items)
                progress.show(done)
    except (Mistaken, StorageError, OSError) as error:
        complain(f"{done} of {source.requests} items were queued, those that are printed")
        if isinstance(error, Mistaken):
            raise ConfigError(f"{source.path}: was changed meanwhile: {error}") from None
        raise
    complain(f"{done} items queued")


def _begin(file: FileChanges, owner: Owner, options: Options, items: int) -> int | None:
    """Return the number of the owner's principal. Raises ConfigError if there is no room."""
    room = Room(options.max_queued, options.max_queued_per_key)
    try:
        file.write(lambda db: room.check(db, owner.id, items))
    except TooManyRequests as error:
        raise ConfigError(f"{items} items are too many: {error}") from None
    return file.write(lambda db: principal_number(db, owner))


def _slices(source: Source) -> Iterator[Sequence[Numbered]]:
    found, size = list[Numbered](), 0
    for line in lines_of(source.path, source.reader.most):
        request = source.reader.read(line)
        found.append((line.number, request))
        size += len(request.body)
        if len(found) >= SLICE_LINES or size >= SLICE_BYTES:
            yield found
            found, size = [], 0
    if found:
        yield found


def _tell(some: Sequence[Numbered], items: Sequence[NewItem]) -> None:
    for (number, _), item in zip(some, items, strict=True):
        say(msgspec.json.encode(Imported(number, item.id, item.custom_id)))
