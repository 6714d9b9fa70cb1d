"""How the simulator's answer to a recorded request differs in shape from the recorded answer."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
from simulator.test_simulator_shape import Json, _any_order, differences
from support.records.vllm_recordings import MORE, RecordedExchange, load

from gateway.simulator import Simulator


def recorded(*groups: str) -> list[str]:
    """The names of the recorded exchanges of `groups`."""
    return [name for name in load(MORE) if name.partition("/")[0] in groups]


async def replay(
    sim: Simulator,
    name: str,
    fault: str | None = None,
    changes: Mapping[str, Json] | None = None,
    file: Path = MORE,
) -> tuple[RecordedExchange, httpx.Response]:
    """Send a recorded request to `sim`; return the recorded exchange, and the answer."""
    exchange = load(file)[name]
    body = exchange.request_body
    if changes:
        body = msgspec.json.encode(json.loads(body) | changes)
    headers = dict(exchange.request_headers) | ({"x-sim-fault": fault} if fault else {})
    async with httpx.AsyncClient(base_url=sim.url, verify=False) as client:
        answer = await client.request(exchange.method, exchange.path, headers=headers, content=body)
    return exchange, answer


def compare_heads(exchange: RecordedExchange, answer: httpx.Response) -> None:
    """The recorder closed each connection, which is its own affair."""
    assert answer.status_code == exchange.status, answer.text
    theirs = [key for key, _ in exchange.headers if key != "connection"]
    assert [key.decode() for key, _ in answer.headers.raw] == theirs
    assert answer.headers.get("content-type") == dict(exchange.headers).get("content-type")


def compare(exchange: RecordedExchange, answer: httpx.Response) -> None:
    compare_heads(exchange, answer)
    if exchange.status != 200:
        assert json.loads(answer.content) == json.loads(exchange.body)
    elif answer.headers["content-type"].startswith("text/event-stream"):
        compare_streams(exchange, answer.content)
    else:
        assert not differences(json.loads(exchange.body), json.loads(answer.content))


def compare_streams(exchange: RecordedExchange, body: bytes) -> None:
    """The kinds of events in their order, repeats as one, and each kind's keys and types."""
    theirs, ours = list(events_of(exchange.body)), list(events_of(body))
    kinds = _kinds(theirs)
    assert (_kinds(ours)[: len(kinds)] if exchange.cut_short else _kinds(ours)) == kinds
    for kind in set(kinds):
        like = [event for name, event in theirs if name == kind]
        assert not _any_order(like, [event for name, event in ours if name == kind], kind)


def events_of(body: bytes) -> Iterator[tuple[str, Json]]:
    """The events with their kinds: their names, else what of a choice they have."""
    for frame in body.decode().split("\n\n")[:-1]:
        name, _, data = frame.rpartition("data: ")
        if data == "[DONE]":
            yield "done", {}
        else:
            event = json.loads(data)
            yield name.removeprefix("event: ").strip() or _unnamed(event), event


def _unnamed(event: dict[str, Json]) -> str:
    choices = event.get("choices")
    if not choices:
        return "usage" if "usage" in event else "error"
    assert isinstance(choices, list)
    return "finish" if choices[0]["finish_reason"] else "tokens"


def _kinds(events: list[tuple[str, Json]]) -> list[str]:
    """The kinds in their order; several choices end among each other, which is left out."""
    found: list[str] = []
    for kind, _ in events:
        if found[-1:] != [kind] and not (kind == "tokens" and "finish" in found):
            found.append(kind)
    return [kind for at, kind in enumerate(found) if kind not in found[:at] or kind != "finish"]
