"""Forwards an answer that came over no connection: a `handle` hook's or the local worker's."""

import asyncio
from collections.abc import AsyncIterable

from gateway.calls.records import Answer, Attempt
from gateway.config import Config
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.relay import Relay
from gateway.upstream.phase_timer import Alarm


async def send_answer(
    exchange: Exchange, answer: Answer, settings: Config, attempt: Attempt | None = None
) -> bytes:
    """Relay `answer` as if the attempt's worker had sent it; return its last bytes.

    Raises the exceptions of its body, and IdleTimeout or CallerStalled as for a worker's response.
    """
    flow = _Flow()
    if answer.injected:
        exchange.strip_injected(answer.engine)
    relay = Relay(exchange, attempt, flow, settings)
    try:
        relay.on_headers(answer.status, answer.headers)
        if not isinstance(answer.body, bytes):
            return await _fed(answer.body, relay, flow)
        relay.on_end(answer.body)
        return await relay.done
    finally:
        relay.close()
        flow.alarm.stop()


async def _fed(body: AsyncIterable[bytes], relay: Relay, flow: "_Flow") -> bytes:
    """Feed `body` to the relay until its end, or until the relay ends first."""
    feeding = asyncio.create_task(_feed(body, relay, flow))
    try:
        return await relay.done
    finally:
        feeding.cancel()
        await asyncio.wait((feeding,))


async def _feed(body: AsyncIterable[bytes], relay: Relay, flow: "_Flow") -> None:
    try:
        async for chunk in body:
            relay.on_body(chunk)
            await flow.opened.wait()
        relay.on_end(b"")
    except Exception as error:  # noqa: BLE001  raised again by awaiting `done`
        if not relay.done.done():
            relay.done.set_exception(error)


class _Flow:
    """Stops the feed while the caller reads nothing."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.alarm = Alarm()
        self.opened = asyncio.Event()
        self.opened.set()

    def pause_reading(self) -> None:
        self.opened.clear()

    def resume_reading(self) -> None:
        self.opened.set()
