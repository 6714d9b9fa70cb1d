"""A plugin that says what cannot be seen from outside, at `GET /soak`."""

import asyncio
from collections import deque

import msgspec
from starlette.routing import BaseRoute

from gateway import Call, ControlRequest, Gateway, Outcome, hookimpl

MOST = 1_000_000
"""Calls that are remembered; whoever asks seldomer loses some."""


class Seen(msgspec.Struct):
    """`ids` are a call's own and its trace's, of those that ended since it was asked last."""

    tasks: int
    ids: list[tuple[str, str]]


class Inside:
    """The plugin."""

    def __init__(self) -> None:
        self._ids: deque[tuple[str, str]] = deque(maxlen=MOST)

    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        return [gateway.control("/soak", scope="monitor", GET=self._tell)]

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self._ids.append((call.id, call.trace_id))

    async def _tell(self, request: ControlRequest) -> Seen:
        ids, self._ids = list(self._ids), deque(maxlen=MOST)
        return Seen(len(asyncio.all_tasks()), ids)
