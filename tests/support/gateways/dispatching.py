"""Gateways without a server, and calls made by hand for them."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from gateway import Gateway
from gateway.config import Config, Failover, ServerLimits, Timeouts, Worker
from gateway.testing import NO_PROBES, RecordedCall, entry, make_call

T = TypeVar("T")

DEFAULT = Timeouts()
NO_LIMITS = ServerLimits()
FAILOVER = Failover()


@contextlib.asynccontextmanager
async def gateway_of(
    *plugins: type,
    workers: Sequence[str] = (),
    timeouts: Timeouts = DEFAULT,
    limits: ServerLimits = NO_LIMITS,
    failover: Failover = FAILOVER,
) -> AsyncIterator[Gateway]:
    config = Config(
        workers=tuple(Worker(url=url) for url in workers),
        plugins=tuple(entry(plugin) for plugin in plugins),
        timeouts=timeouts,
        server_limits=limits,
        failover=failover,
        probes=NO_PROBES,
    )
    async with Gateway(config) as gateway:
        yield gateway


def plugin_of(gateway: Gateway, kind: type[T]) -> T:
    [found] = [one.object for one in gateway.plugins.loaded if isinstance(one.object, kind)]
    return found


def chat(**headers: str) -> RecordedCall:
    return make_call(headers={"content-type": "application/json", **headers})


async def dispatch(gateway: Gateway, call: RecordedCall | None = None) -> RecordedCall:
    call = call or chat()
    await gateway.proxy.dispatch(call)
    assert call not in gateway.calls_in_flight
    return call


def code_of(call: RecordedCall) -> tuple[int, str]:
    """What the caller was told, as a whole answer of the gateway's own."""
    assert call.caller.is_ended
    code = msgspec.json.decode(call.caller.body)["error"]["code"]
    return call.caller.status, code


def mid_stream_code(call: RecordedCall) -> str:
    assert call.caller.is_cut
    assert not call.caller.is_ended
    assert b"event: error" not in call.caller.body
    assert call.outcome.error is not None
    return call.outcome.error.code
