"""The recorded answers of a real vLLM pass through the gateway byte for byte, however they come."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.callers.response_paths import PLUGINS, Deltas
from support.gateways.event_loop import Stage
from support.records.vllm_recordings import RecordedExchange, load
from support.records.worker_answers import cut
from support.workers.memory_worker import MemoryPool
from support.workers.playing import Playing, compare, naming, pairs, raw

from gateway import Gateway
from gateway.calls.body import parse_object
from gateway.config import Config, Worker
from gateway.errors import InvalidJSON
from gateway.testing import (
    NO_PROBES,
    Live,
    RecordedCall,
    ScriptedWorker,
    entry,
    live,
    make_call,
)
from gateway.wire.apis.registry import dialect_of

pytestmark = pytest.mark.usefixtures("kernel_of_module")

EXCHANGES = list(load().values())
STREAMS = [exchange for exchange in EXCHANGES if exchange.body.startswith((b"data:", b"event:"))]


class Theatre(Stage):
    """One worker that plays what it is told, and before it a gateway for each set of plugins."""

    def __init__(self) -> None:
        self.playing = Playing()
        self.lives: dict[str, Live] = {}

    def open(self) -> None:
        worker = self.enter(ScriptedWorker(self.playing.script))
        for name, plugins in PLUGINS.items():
            self.lives[name] = self.enter(live(config(worker.url, plugins)))

    def replay(self, way: str, exchange: RecordedExchange, pieces: Sequence[bytes]) -> None:
        """Have the answer come in `pieces`, and check what the caller got of it."""
        self.playing.pieces, self.playing.breaks_off = pieces, bool(exchange.cut_short)
        with naming(exchange):
            self.run(self._replay(self.lives[way].server.address, exchange))

    async def _replay(self, address: tuple[str, int], exchange: RecordedExchange) -> None:
        async with RawClient(*address) as client:
            asking = client.ask(
                exchange.method,
                exchange.path,
                pairs(exchange.request_headers),
                exchange.request_body,
            )
            if exchange.cut_short is None:
                compare(await asking, exchange)
                return
            with pytest.raises(CutShort) as caught:
                await asking
            compare(caught.value.answer, exchange)


@pytest.fixture(scope="module")
def theatre(kernel_of_module: str) -> Iterator[Theatre]:
    with Theatre() as theatre:
        theatre.open()
        yield theatre


def config(url: str, plugins: Sequence[type]) -> Config:
    others = {e.path.partition("?")[0] for e in EXCHANGES if not e.path.startswith("/v1/")}
    return Config(
        probes=NO_PROBES,
        workers=(Worker(url=url),),
        plugins=tuple(entry(plugin) for plugin in plugins),
        extra_paths=tuple(sorted(others)),
    )


def is_answered_by_the_gateway(way: str, exchange: RecordedExchange) -> bool:
    """A plugin that changes the body needs one that is JSON, and its lack is a 400 already."""
    if way != "stripped" or exchange.method != "POST" or dialect_of(exchange.path) is None:
        return False
    try:
        parse_object(exchange.request_body)
    except InvalidJSON:
        return True
    return False


def at_random(exchange: RecordedExchange, answer: bytes) -> list[bytes]:
    chance = random.Random(exchange.name)
    return cut(answer, chance.sample(range(len(answer)), 12))


@pytest.mark.parametrize("way", PLUGINS)
@pytest.mark.parametrize("pieces", [lambda _, answer: [answer], at_random], ids=["whole", "pieces"])
def test_recorded_responses_reach_the_caller_unchanged(
    theatre: Theatre, way: str, pieces: Callable[[RecordedExchange, bytes], list[bytes]]
) -> None:
    for exchange in EXCHANGES:
        if not is_answered_by_the_gateway(way, exchange):
            theatre.replay(way, exchange, pieces(exchange, raw(exchange)))


SHORT = {
    "untouched": [exchange for exchange in EXCHANGES if len(raw(exchange)) < 1000],
    "read": [exchange for exchange in STREAMS if len(raw(exchange)) < 2100],
    "stripped": [exchange for exchange in STREAMS if len(raw(exchange)) < 2100],
}
"""For each way those whose every byte is worth a read of its own: elsewhere a body has no seams."""


@pytest.mark.parametrize("way", SHORT)
def test_short_responses_may_arrive_byte_by_byte_over_sockets(theatre: Theatre, way: str) -> None:
    for exchange in SHORT[way]:
        answer = raw(exchange)
        theatre.replay(way, exchange, cut(answer, range(len(answer))))


@pytest.mark.parametrize("way", ["read"])
def test_gateway_reads_each_worker_write_separately(theatre: Theatre, way: str) -> None:
    """Else the tests above would show less than they say."""
    exchange = load()["default/comp_echo"]
    seen = theatre.lives[way].plugin(Deltas).seen
    seen.clear()
    theatre.replay(way, exchange, cut(raw(exchange), range(len(raw(exchange)))))
    assert seen["data"] == len(exchange.body)


class Rehearsal(Stage):
    """The gateways without their sockets: each piece is given to the connection as a read."""

    def __init__(self) -> None:
        self.gateways: dict[str, Gateway] = {}

    def open(self) -> None:
        for name, plugins in PLUGINS.items():
            self.gateways[name] = self.enter(Gateway(config("http://memory", plugins)))

    def replay(
        self, way: str, exchange: RecordedExchange, splits: Iterable[Sequence[bytes]]
    ) -> None:
        """Have the answer come once for each of `splits`, in these pieces."""
        with naming(exchange):
            self.run(self._replay(self.gateways[way], exchange, splits))

    async def _replay(
        self, gateway: Gateway, exchange: RecordedExchange, splits: Iterable[Sequence[bytes]]
    ) -> None:
        (worker,) = gateway.workers.all
        for pieces in splits:
            worker.pool = MemoryPool(pieces)
            call = call_of(exchange)
            await gateway.proxy.dispatch(call)
            assert call.caller.is_ended is (exchange.cut_short is None)
            answer = RawAnswer(call.caller.status, list(call.caller.headers), call.caller.body)
            compare(answer, exchange)


def call_of(exchange: RecordedExchange) -> RecordedCall:
    path, _, query = exchange.path.partition("?")
    return make_call(
        exchange.request_body,
        path=path,
        query=query.encode(),
        method=exchange.method,
        headers=dict(exchange.request_headers),
    )


@pytest.fixture(scope="module")
def rehearsal(kernel_of_module: str) -> Iterator[Rehearsal]:
    with Rehearsal() as rehearsal:
        rehearsal.open()
        yield rehearsal


def in_small_pieces(exchange: RecordedExchange) -> list[bytes]:
    """One byte at a time, or where that is much, in pieces of about 40."""
    answer = raw(exchange)
    if len(answer) < 4096:
        return cut(answer, range(len(answer)))
    return cut(answer, random.Random(exchange.name).sample(range(len(answer)), len(answer) // 40))


@pytest.mark.slow
@pytest.mark.parametrize("way", PLUGINS)
def test_recorded_responses_may_arrive_byte_by_byte(rehearsal: Rehearsal, way: str) -> None:
    for exchange in EXCHANGES:
        if not is_answered_by_the_gateway(way, exchange):
            rehearsal.replay(way, exchange, [in_small_pieces(exchange)])


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", SHORT)
def test_short_responses_may_be_split_anywhere(rehearsal: Rehearsal, way: str, step: int) -> None:
    """At one position in `step`; the first differs by exchange."""
    for number, exchange in enumerate(SHORT[way]):
        answer = raw(exchange)
        places = range(number % step, len(answer), step)
        rehearsal.replay(way, exchange, (cut(answer, [place]) for place in places))


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", PLUGINS)
def test_long_responses_may_be_split_at_random_places(
    rehearsal: Rehearsal, way: str, count: int
) -> None:
    for exchange in EXCHANGES:
        if exchange not in SHORT[way] and not is_answered_by_the_gateway(way, exchange):
            answer = raw(exchange)
            places = random.Random(exchange.name).sample(range(len(answer)), count)
            rehearsal.replay(way, exchange, (cut(answer, [place]) for place in places))
