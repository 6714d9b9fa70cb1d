"""What the limits cost a call, and whether that grows with the number of keys.

    python tests/bench/limits_cost.py [--rounds 20]

CPU time of this thread; the least of all rounds counts, as what else the machine does only adds to
it. A call is what the core does with the plugin's hooks for it, less the same without the plugin.
`read` is what the core takes to read the tokens of an answer because the plugin asks for them;
where `usage` asks too, that is done once for both. `keys` is a call of each of so many keys in
turn, all limits on, and the memory that one of them holds.
"""

import argparse
import asyncio
import sys
import time
import tracemalloc
from collections.abc import Mapping, Sequence

import msgspec

from gateway import Gateway, Principal
from gateway.call import Attempt
from gateway.chains import Chains
from gateway.config import Config, Probes, Worker
from gateway.observing import UNOBSERVED
from gateway.testing import RecordedCall, entry, make_call

LOOPS = 2_000
MOST = 1 << 40
HEADERS = ((b"server", b"uvicorn"), (b"content-type", b"application/json"))
ANSWER = msgspec.json.encode(
    {
        "choices": [{"message": {"role": "assistant", "content": "word " * 40}}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 40, "total_tokens": 90},
    }
)
REQUESTS = {"requests_per_minute": MOST}
TOKENS = {**REQUESTS, "tokens_per_minute": MOST}
MINUTES = {**TOKENS, "concurrent": MOST}
BUDGETS = {**MINUTES, "tokens_per_day": MOST, "tokens_per_month": MOST}

Limits = Mapping[str, int]


def gateway_with(limits: Limits | None) -> Gateway:
    plugins = () if limits is None else (entry("limits", default=limits),)
    workers = (Worker(url="http://127.0.0.1:1", models=("sim",)),)
    probes = Probes(interval=None, models=None)
    return Gateway(Config(workers=workers, plugins=plugins, probes=probes))


def calls_of(gateway: Gateway, principals: Sequence[Principal]) -> list[RecordedCall]:
    messages = [{"role": "user", "content": "a" * 200}]
    body = msgspec.json.encode({"messages": messages, "model": "sim", "max_tokens": 100})
    [worker] = gateway.workers.all
    calls = [make_call(body) for _ in principals]
    for call, principal in zip(calls, principals, strict=True):
        call.principal = principal
        call.attempts.append(Attempt(worker, call.started, connected=call.started, status=200))
        call.outcome.status, call.outcome.complete = 200, True
    return calls


async def carry(chains: Chains, calls: list[RecordedCall], *, read: bool) -> float:
    """Seconds of what the core does with the hooks, see Proxy._answer and _record."""
    began = time.thread_time()
    for call in calls:
        await chains.decide(call)
        observers = chains.observers(call) if read else UNOBSERVED
        observers.tell_started(200, HEADERS)
        observers.tell_data(ANSWER)
        observers.tell_finished()
        if chains.call_finished:
            await chains.tell_call(call)
        call.own_headers()
    return time.thread_time() - began


async def cost_of(limits: Limits, rounds: int, *, read: bool) -> float:
    """Seconds that the plugin adds to a call."""
    pair = [gateway_with(None), gateway_with(limits)]
    principals = [Principal("a")] * LOOPS
    least = [float("inf")] * 2
    for _ in range(rounds):
        for place, gateway in enumerate(pair):
            took = await carry(gateway.chains, calls_of(gateway, principals), read=read)
            least[place] = min(least[place], took)
    return (least[1] - least[0]) / LOOPS


async def cost_among(keys: int, rounds: int) -> tuple[float, float]:
    """Seconds of a call in all, and bytes that a key holds."""
    gateway = gateway_with(BUDGETS)
    everyone = [Principal(f"key-{number}") for number in range(keys)]
    tracemalloc.start()
    for start in range(0, keys, LOOPS):
        some = everyone[start : start + LOOPS]
        await carry(gateway.chains, calls_of(gateway, some), read=True)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    step = max(keys // LOOPS, 1)
    turn = [everyone[number * step % keys] for number in range(LOOPS)]
    least = min(
        [await carry(gateway.chains, calls_of(gateway, turn), read=True) for _ in range(rounds)]
    )
    return least / LOOPS, held / keys


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    kinds = {"requests": REQUESTS, "tokens": TOKENS, "minutes": MINUTES, "budgets": BUDGETS}
    sys.stdout.write(f"no limits: {await cost_of({}, rounds, read=False) * 1e6:.2f} us\n")
    for name, limits in kinds.items():
        alone = await cost_of(limits, rounds, read=False)
        whole = await cost_of(limits, rounds, read=True)
        sys.stdout.write(f"{name}: {alone * 1e6:.2f} us, read: {(whole - alone) * 1e6:.2f} us\n")
    for keys in (10, 100_000):
        seconds, held = await cost_among(keys, rounds)
        sys.stdout.write(f"{keys} keys: {seconds * 1e6:.2f} us, {held:.0f} bytes\n")


if __name__ == "__main__":
    asyncio.run(main())
