"""Passes on the answer that a `handle` hook gave in a worker's place."""

import asyncio

from gateway.call import Answer, Call
from gateway.config import Config
from gateway.relay import Relay


async def pass_on(call: Call, answer: Answer, settings: Config) -> bytes:
    """Relay `answer` as if a worker had sent it; gives its last bytes."""
    tap = _Tap()
    relay = Relay(call, None, tap, settings)
    try:
        relay.on_headers(answer.status, answer.headers, alone=False)
        if isinstance(answer.body, bytes):
            relay.on_end(answer.body)
        else:
            async for chunk in answer.body:
                relay.on_body(chunk)
                await tap.opened.wait()
            relay.on_end(b"")
        return await relay.done
    finally:
        relay.close()


class _Tap:
    """Closed while the caller takes nothing in."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.opened = asyncio.Event()
        self.opened.set()

    def pause_reading(self) -> None:
        self.opened.clear()

    def resume_reading(self) -> None:
        self.opened.set()
