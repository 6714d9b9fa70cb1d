"""Messages of the simulator has the shape that was recorded from vLLM, event by event."""

import pytest
from simulator.dialects.recorded_shape import compare, recorded, replay
from support.records.vllm_recordings import FILE, MORE, load

from gateway.simulator import Simulator, SimulatorConfig

DETAILED = SimulatorConfig(model="tiny", scale_out=True, prompt_tokens_details=True)
PLAIN = SimulatorConfig(model="tiny", scale_out=True, request_id_headers=False)
THINKING = SimulatorConfig(model="tiny", reasoning=True)
CONFIGS = {"messages": DETAILED, "thinking": THINKING}

FAULTS = {
    "multi/messages_aborted_before_first_stream": "abort:0",
    "random/messages_aborted": "abort:20",
    "random/messages_aborted_stream": "abort:20",
    "random/messages_aborted_by_id_stream": "abort:20",
    "crash/kill9_worker_messages_stream": "error-event:6",
    "crash/sigterm_api_messages_stream": "abort:30",
}
"""What had happened to the engine, and the fault that does it to the simulator."""

_WORDS: dict[str, object] = {"tool_choice": {"type": "none"}}
_CAPITALS = [chr(letter) for letter in range(ord("A"), ord("Z") + 1)]

CHANGES: dict[str, dict[str, object]] = {
    "messages/stop_sequence_stream": {"stop_sequences": ["."], "max_tokens": 200},
    "messages/stop_in_multibyte_stream": {"stop_sequences": ["."], "max_tokens": 200},
    "messages/empty_answer_stream": {"stop_sequences": _CAPITALS},
    "messages/tool_result_error_blocks_stream": _WORDS,
    "multi/messages_stream_turn3": _WORDS,
    "thinking/messages_sent_back_stream": {"max_tokens": 8},
    "thinking/messages": {"max_tokens": 1500},
}
"""What lets the simulator's model end its answer as the recorded one did."""

OTHER_CONTENT = {
    "messages/tool_two_with_text",
    "default/messages_tool_any",
    "default/messages_tool_any_stream",
}
"""The simulator's model writes no words beside a call, and no call twice."""

ASKED = [
    name
    for name in recorded("messages", "thinking", "multi", "random")
    if load(MORE)[name].path.startswith("/v1/messages") and name not in OTHER_CONTENT
]
OLDER = [
    name
    for name, exchange in load().items()
    if exchange.path.startswith("/v1/messages")
    and name.startswith(("default", "crash", "extra"))
    and name not in OTHER_CONTENT
]


@pytest.mark.parametrize("name", ASKED)
async def test_simulator_messages_have_the_recorded_shape(name: str) -> None:
    async with Simulator(CONFIGS.get(name.partition("/")[0], PLAIN)) as sim:
        compare(*await replay(sim, name, FAULTS.get(name), CHANGES.get(name)))


@pytest.mark.parametrize("name", OLDER)
async def test_simulator_messages_have_the_shape_that_was_recorded_before(name: str) -> None:
    config = SimulatorConfig(model="tiny", request_id_headers=name.startswith("extra"))
    async with Simulator(config) as sim:
        compare(*await replay(sim, name, FAULTS.get(name), file=FILE))


@pytest.mark.parametrize("name", ["generate/render_messages", "generate/render_messages_tools"])
async def test_simulator_render_of_messages_has_the_recorded_shape(name: str) -> None:
    async with Simulator(PLAIN) as sim:
        compare(*await replay(sim, name))
