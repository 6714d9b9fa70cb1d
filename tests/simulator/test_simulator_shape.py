"""The simulator's answers have the shape of the recorded ones, field by field.

Each recorded request goes to a running simulator over a real socket. Compared are the status, the
names and order of the headers, and the body: plain answers must have the same keys in the same
order with the same types at every level; streams must have, for each choice, the same sequence of
kinds of event, and events of a kind the same shape. What the engine says when it refuses must be
the same to the letter. Texts, ids and lengths may differ.
"""

import json
import re
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from support.records.vllm_recordings import RecordedExchange, load

from gateway.simulator import Simulator, SimulatorConfig

Json = object

CONFIGS = {
    "default": SimulatorConfig(model="tiny"),
    "apikey": SimulatorConfig(model="tiny", api_key="sk-test"),
    "crash": SimulatorConfig(model="tiny", api_key="sk-test"),
    "extra": SimulatorConfig(model="tiny", request_id_headers=True),
    "reload": SimulatorConfig(model="tiny"),
    "trl_client": SimulatorConfig(model="tiny"),
}
"""The recorded groups that are replayed. Of the others, "devmode" is an engine with development
endpoints and its own usage details, and "trl_legacy" is another server."""

_PAUSE = "the development endpoints are not the simulator's"
_SCALE_OUT = "an engine started with --enable-scale-out"

SKIPPED = {
    "default/chat_batch": "the batch endpoint is not the simulator's",
    "default/generative_scoring": "scoring is not the simulator's",
    "default/get_kv_event_sources": "KV events are not the simulator's",
    "apikey/auth_missing_pause": _PAUSE,
    "apikey/auth_missing_resume": _PAUSE,
    "extra/abort_all": _PAUSE,
    "extra/keep_p": _PAUSE,
    "extra/keep_r": _PAUSE,
    "reload/r1_pause": _PAUSE,
    "reload/r2_reload": _PAUSE,
    "reload/r3_version": _PAUSE,
    "reload/r4_reset": _PAUSE,
    "reload/r5_resume": _PAUSE,
    "reload/r6b_gen_after": _SCALE_OUT,
    "reload/r8_reload_back": _PAUSE,
    "trl_client/02_get_get_world_size": _PAUSE,
    "trl_client/09_post_reset_prefix_cache": _PAUSE,
    "trl_client/11_get_get_world_size": _PAUSE,
    "trl_client/12_post_start_weight_update": _PAUSE,
    "trl_client/13_post_finish_weight_update": _PAUSE,
}

FAULTS = {
    "crash/kill9_worker_stream": "error-event:6",
    "crash/sigterm_api_comp_stream": "abort:120",
    "crash/sigterm_api_nonstream": "abort:120",
    "crash/sigterm_api_stream": "abort:120",
    "extra/chat_n2_aborted": "abort:120",
    "extra/comp_aborted": "abort:120",
}
"""What had happened to the engine, and the fault that does it to the simulator."""

ONE_MISTAKE_NAMED = {"default/err_bad_role", "default/err_negative_token_id"}
"""Here pydantic lists what each member of a union disliked; the simulator names the first."""

ELSEWHERE = ("/v1/messages", "/v1/responses")
"""Paths whose exchanges the tests in `dialects` replay."""

REPLAYED = [
    name
    for name, exchange in load().items()
    if name.partition("/")[0] in CONFIGS
    and name not in SKIPPED
    and not exchange.path.startswith(ELSEWHERE)
]


def test_skipped_exchanges_are_recorded() -> None:
    assert set(SKIPPED) <= set(load())


@pytest.mark.parametrize("name", sorted(SKIPPED))
async def test_simulator_does_not_serve_skipped_exchanges(name: str) -> None:
    exchange = load()[name]
    async with Simulator(CONFIGS[name.partition("/")[0]]) as sim:
        answer = await send(sim, exchange)
    if exchange.status == 200:
        assert answer.status_code != 200


@pytest.mark.parametrize("name", REPLAYED)
async def test_simulator_response_has_the_recorded_shape(name: str) -> None:
    recorded = load()[name]
    async with Simulator(CONFIGS[name.partition("/")[0]]) as sim:
        answer = await send(sim, recorded, await stops(sim, recorded))
    assert answer.status_code == recorded.status
    assert [key.decode() for key, _ in answer.headers.raw] == [key for key, _ in recorded.headers]
    assert answer.headers.get("content-type") == dict(recorded.headers).get("content-type")
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        compare_streams(recorded, answer.content)
    elif recorded.status != 200:
        compare_refusals(recorded, answer.content)
    elif recorded.body:
        assert not differences(json.loads(recorded.body), json.loads(answer.content))
    else:
        assert answer.content == b""


async def send(
    sim: Simulator, exchange: RecordedExchange, changes: dict[str, Json] | None = None
) -> httpx.Response:
    body = exchange.request_body
    if changes:
        body = msgspec.json.encode(json.loads(body) | changes)
    # The recorder of TRL's client did not keep its headers.
    headers = dict(exchange.request_headers) or {"content-type": "application/json"}
    if exchange.name in FAULTS:
        headers["x-sim-fault"] = FAULTS[exchange.name]
    # There is no TLS to verify, and reading the certificates would take most of a test's time.
    async with httpx.AsyncClient(base_url=sim.url, verify=False) as client:
        return await client.request(exchange.method, exchange.path, headers=headers, content=body)


async def stops(sim: Simulator, exchange: RecordedExchange) -> dict[str, Json]:
    """Stops that end this simulator's answer where the recorded ones ended the engine's."""
    if not re.search("chat_stop", exchange.name):
        return {}
    endless: dict[str, Json] = {"stop": None, "stop_token_ids": None, "stream": False}
    endless |= {"stream_options": None, "return_token_ids": True}
    answer = (await send(sim, exchange, endless)).json()["choices"][0]
    if "token_ids" in exchange.name:
        return {"stop_token_ids": [answer["token_ids"][3]]}
    words = answer["message"]["content"].split(" ")
    return {"stop": [f"{words[1]} {words[2][0]}"]}


def compare_refusals(recorded: RecordedExchange, body: bytes) -> None:
    theirs, ours = json.loads(recorded.body), json.loads(body)
    if recorded.name not in ONE_MISTAKE_NAMED:
        assert ours == theirs
        return
    first = re.search(r"\{'type'.*\}", theirs["error"].pop("message"))
    assert first is not None
    assert ours["error"].pop("message") == f"1 validation error:\n  {first[0]}"
    assert ours == theirs


def differences(theirs: Json, ours: Json, where: str = "$") -> list[str]:
    """Where `ours` has another shape than `theirs`; lists are compared by kinds of elements."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if where.endswith("logprobs[]") and not where.endswith("content[].top_logprobs[]"):
            return _any_order(list(theirs.values()), list(ours.values()), f"{where}.*")
        if list(theirs) != list(ours):
            return [f"{where}: {list(theirs)} became {list(ours)}"]
        return [
            line for key in theirs for line in differences(theirs[key], ours[key], f"{where}.{key}")
        ]
    if isinstance(theirs, list) and isinstance(ours, list):
        return _any_order(theirs, ours, f"{where}[]")
    if type(theirs) is not type(ours):
        return [f"{where}: {theirs!r} became {ours!r}"]
    return []


def _any_order(theirs: list[Json], ours: list[Json], where: str) -> list[str]:
    """Each element must have its like on the other side; an empty list says nothing."""
    if not theirs or not ours:
        return []
    theirs, ours = _kinds(theirs), _kinds(ours)
    missing = [one for one in theirs if all(differences(one, other, where) for other in ours)]
    added = [one for one in ours if all(differences(other, one, where) for other in theirs)]
    return [f"{where}: no {one!r}" for one in missing] + [f"{where}: new {one!r}" for one in added]


def _kinds(values: list[Json]) -> list[Json]:
    """One of each shape among `values`."""
    return list({_signature(value): value for value in values}.values())


def _signature(value: Json) -> object:
    if isinstance(value, dict):
        return tuple((key, _signature(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return frozenset(map(_signature, value))
    return type(value)


class Event(msgspec.Struct):
    """One event of a stream: its kind, the choice it belongs to, and its JSON.

    `silent` ones carry a token that nothing is seen of yet. Where they stand depends on the text.
    """

    kind: str
    index: int | None
    body: Json
    silent: bool = False


def compare_streams(recorded: RecordedExchange, body: bytes) -> None:
    theirs, ours = list(events_of(recorded.body)), list(events_of(body))
    if recorded.cut_short:
        for index, kinds in sequences(theirs).items():
            assert sequences(ours)[index][: len(kinds)] == kinds
    else:
        assert sequences(ours) == sequences(theirs)
    for kind in {event.kind for event in theirs}:
        like = [event.body for event in theirs if event.kind == kind]
        assert not _any_order(like, [event.body for event in ours if event.kind == kind], kind)


def sequences(events: list[Event]) -> dict[int | None, list[str]]:
    """For each choice, and for what belongs to none, the kinds in their order, repeats as one."""
    found: dict[int | None, list[str]] = {}
    for event in events:
        kinds = found.setdefault(event.index, [])
        if kinds[-1:] != [event.kind] and not event.silent:
            kinds.append(event.kind)
    return found


def events_of(body: bytes) -> Iterator[Event]:
    for frame in body.decode().split("\n\n")[:-1]:
        assert frame.startswith("data: ")
        data = frame.removeprefix("data: ")
        yield Event("done", None, {}) if data == "[DONE]" else event_of(json.loads(data))


def event_of(body: dict[str, Json]) -> Event:
    if "error" in body:
        return Event(f"error {body}", None, body)
    choices = body["choices"]
    assert isinstance(choices, list)
    if not choices:
        return Event("usage", None, body)
    (choice,) = choices
    silent = choice.get("delta") == {} and choice["finish_reason"] is None
    return Event(kind_of(choice), choice["index"], body, silent)


def kind_of(choice: dict[str, Json]) -> str:
    """The kind of a choice's event; takes out text that may be there or not."""
    delta = choice.get("delta", {})
    assert isinstance(delta, dict)
    if "role" in delta:
        return "role"
    if delta.get("tool_calls"):
        (call,) = delta["tool_calls"]
        return "tool name" if "name" in call["function"] else "tool arguments"
    assert not delta or (list(delta) == ["content"] and isinstance(delta["content"], str))
    choice.pop("delta", None)
    return "content" if choice["finish_reason"] is None else "finish"
