"""Generate, render and derender have the shape that was recorded from vLLM."""

import json

import httpx
import pytest
from simulator.dialects.recorded_shape import compare, recorded, replay
from simulator.test_simulator_shape import differences
from support.records.vllm_recordings import MORE, load

from gateway.simulator import Simulator, SimulatorConfig

DETAILED = SimulatorConfig(model="tiny", scale_out=True, prompt_tokens_details=True)
PLAIN = SimulatorConfig(model="tiny", scale_out=True)

FAULTS = {
    "generate/aborted_by_pause": "abort:20",
    "generate/aborted_by_pause_stream": "abort:20",
    "generate/aborted_by_id_n2": "abort:20",
    "multi/generate_aborted_before_first_stream": "abort:0",
}
"""What had happened to the engine, and the fault that does it to the simulator."""

CHANGES = {
    "generate/stop_string_text_mode_stream": {
        "sampling_params": {"max_tokens": 200, "temperature": 0, "stop": ["."]}
    }
}
"""A stop that the simulator's model writes."""

GENERATED = [
    name
    for name in recorded("generate", "multi", "random")
    if load(MORE)[name].path.startswith("/inference/")
]
RENDERED = [name for name in recorded("generate", "multi") if "/render" in load(MORE)[name].path]
SERVED = ("/v1/chat/completions/render", "/v1/completions/render")


@pytest.mark.parametrize("name", GENERATED)
async def test_simulator_generate_has_the_recorded_shape(name: str) -> None:
    detailed = name.startswith("generate") and "version" not in name
    async with Simulator(DETAILED if detailed else PLAIN) as sim:
        compare(*await replay(sim, name, FAULTS.get(name), CHANGES.get(name)))


@pytest.mark.parametrize("name", [one for one in RENDERED if load(MORE)[one].path in SERVED])
async def test_simulator_render_has_the_recorded_shape(name: str) -> None:
    async with Simulator(PLAIN) as sim:
        compare(*await replay(sim, name))


async def test_simulator_render_of_completions_has_the_recorded_shape() -> None:
    exchange = load()["devmode/comp_render"]
    async with Simulator(PLAIN) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        answer = await client.post(exchange.path, json=json.loads(exchange.request_body))
    assert not differences(json.loads(exchange.body), answer.json())


@pytest.mark.parametrize("name", ["generate/derender_chat", "generate/derender_stream_start"])
async def test_simulator_derender_refuses_as_recorded(name: str) -> None:
    async with Simulator(PLAIN) as sim:
        compare(*await replay(sim, name))
