"""Responses of the simulator has the shape that was recorded from vLLM, event by event."""

import json

import pytest
from simulator.dialects.recorded_shape import compare, recorded, replay
from support.records.vllm_recordings import FILE, MORE, load

from gateway.simulator import Simulator, SimulatorConfig

DETAILED = SimulatorConfig(model="tiny", scale_out=True, prompt_tokens_details=True)
PLAIN = SimulatorConfig(model="tiny", scale_out=True)
THINKING = SimulatorConfig(model="tiny", reasoning=True)
CONFIGS = {"responses": DETAILED, "thinking": THINKING}

FAULTS = {
    "multi/responses_aborted_in_tool": "abort:60",
    "multi/responses_aborted_stream": "abort:20",
    "multi/responses_aborted_before_first_stream": "abort:0",
    "random/responses_aborted_stream": "abort:20",
    "extra/responses_aborted": "abort:20",
    "extra/responses_stream_aborted": "abort:20",
}
"""What had happened to the engine, and the fault that does it to the simulator."""

OTHER_CONTENT = {"responses/tool_two_with_text", "responses/tool_two_with_text_stream"}
"""The simulator's model writes no words beside a call."""

ENOUGH = 700
"""Tokens in which the simulator's model ends by itself."""

CHANGES: dict[str, dict[str, object]] = {
    "multi/responses_aborted_in_tool": {"ignore_eos": False},
    "multi/responses_stream_turn3": {"tool_choice": "none"},
    "responses/stop_string_stream": {"stop": ["."]},
    "responses/json_schema_stream": {"max_output_tokens": 2},
}

ASKED = [
    name
    for name in recorded("responses", "thinking", "multi", "random")
    if load(MORE)[name].path == "/v1/responses"
    and load(MORE)[name].status
    and name not in OTHER_CONTENT | {"responses/bad_item"}
]
OLDER = [
    name
    for name, exchange in load().items()
    if exchange.path == "/v1/responses" and name.startswith(("default", "extra"))
]


@pytest.mark.parametrize("name", ASKED)
async def test_simulator_responses_have_the_recorded_shape(name: str) -> None:
    async with Simulator(CONFIGS.get(name.partition("/")[0], PLAIN)) as sim:
        changes = {**ending(name), **CHANGES.get(name, {})}
        compare(*await replay(sim, name, FAULTS.get(name), changes))


def ending(name: str) -> dict[str, object]:
    """What lets the simulator's model end its answer as the recorded one did."""
    exchange = load(MORE)[name]
    if exchange.status != 200 or b'"status":"incomplete"' in exchange.body:
        return {}
    return {"max_output_tokens": ENOUGH}


async def test_simulator_responses_refuse_an_item_of_an_unknown_type() -> None:
    async with Simulator(DETAILED) as sim:
        exchange, answer = await replay(sim, "responses/bad_item")
    theirs, ours = json.loads(exchange.body)["error"], answer.json()["error"]
    assert (
        theirs.pop("message").partition("\n")[2].startswith(ours.pop("message").partition("\n")[2])
    )
    assert ours == theirs


@pytest.mark.parametrize("name", OLDER)
async def test_simulator_responses_have_the_shape_that_was_recorded_before(name: str) -> None:
    config = SimulatorConfig(model="tiny", request_id_headers=name.startswith("extra"))
    async with Simulator(config) as sim:
        compare(*await replay(sim, name, FAULTS.get(name), file=FILE))


async def test_simulator_render_of_responses_has_the_recorded_shape() -> None:
    async with Simulator(PLAIN) as sim:
        compare(*await replay(sim, "generate/render_responses"))
