"""Responses that are kept: for those that follow them, for GET, and while they run unattended."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from gateway.simulator.api.messages.wire import split
from gateway.simulator.api.responses.form import Fields, encode
from gateway.simulator.input.refusals import Refused
from gateway.wire.translation.responses.structs import Item

_MOST = 1000
_QUEUED, _CANCELLED = msgspec.Raw(b'"queued"'), msgspec.Raw(b'"cancelled"')
_OPEN = (_QUEUED, msgspec.Raw(b'"in_progress"'))

_decode_items = msgspec.json.Decoder(list[Item]).decode


class Kept:
    """One response: its object as of now, and its items with all that came before them.

    `items` are those before its output. `events` are those of a stream in the background, None for
    other responses.
    """

    def __init__(self, fields: Fields, items: Sequence[Item]) -> None:
        self.fields = fields
        self.items = items
        self.events: list[bytes] | None = None
        self.task: asyncio.Task[None] | None = None
        self._ended = False
        self._grown = asyncio.Condition()

    @property
    def history(self) -> list[Item]:
        """The items of the conversation up to this response's own output."""
        return [*self.items, *_decode_items(self.fields["output"])]

    @property
    def is_open(self) -> bool:
        return self.fields["status"] in _OPEN

    def body(self) -> bytes:
        return encode(self.fields)

    async def add(self, events: bytes) -> None:
        async with self._grown:
            if self.events is not None:
                self.events += split(events)
            self._grown.notify_all()

    async def end(self) -> None:
        async with self._grown:
            self._ended = True
            self._grown.notify_all()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """Yield the events whose sequence numbers are above `after`, until the last one."""
        at = after + 1
        while True:
            async with self._grown:
                while not self._ended and len(self.events or ()) <= at:
                    await self._grown.wait()
            fresh = (self.events or [])[at:]
            for event in fresh:
                yield event
            at += len(fresh)
            if self._ended and not fresh:
                return


class Store:
    """All that one engine keeps; the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def add(self, name: str, kept: Kept) -> None:
        self._kept[name] = kept
        while len(self._kept) > _MOST:
            del self._kept[next(iter(self._kept))]

    def get(self, name: str) -> Kept | None:
        return self._kept.get(name)

    def named(self, name: str) -> Kept:
        """Raises Refused."""
        kept = self._kept.get(name)
        if kept is None:
            message = f"Response with id '{name}' not found."
            raise Refused(404, message, "invalid_request_error", "response_id")
        return kept

    async def cancel(self, name: str) -> Kept:
        """Raises Refused."""
        kept = self.named(name)
        if not kept.is_open:
            message = "Cannot cancel a synchronous response."
            raise Refused(400, message, "invalid_request_error", "response_id")
        kept.fields["status"] = _CANCELLED
        await _stop(kept)
        return kept

    async def close(self) -> None:
        """End all that runs in the background."""
        for kept in self._kept.values():
            await _stop(kept)


async def _stop(kept: Kept) -> None:
    if kept.task is not None:
        kept.task.cancel()
        await asyncio.wait((kept.task,))
