"""Test tools for plugin authors: opt-in pytest fixtures and the plain helpers behind them.

    pytest_plugins = ["gateway.testing"]  # in conftest.py, beside pytest-asyncio

    async def test_it_counts(make_call):
        call = await drive(counter, sse({"choices": []}), sse("[DONE]"), call=make_call())

    async def test_it_runs(gateway_for, simulator):
        live = await gateway_for(entry("./my_capture.py", path="out.jsonl"))
        answer = await live.client.post("/v1/chat/completions", json={"messages": []})

Test streaming and connections over real sockets: a `live` gateway in front of the simulator for
responses as engines send them, or in front of a ScriptedWorker to control the bytes.
"""

from gateway.testing.calls import (
    DONE,
    MESSAGES,
    RecordedCall,
    RecordingCaller,
    drive,
    make_call,
    sse,
)
from gateway.testing.serving import NO_PROBES, GatewayFor, Live, entry, live
from gateway.testing.worker import ScriptedConnection, ScriptedWorker, answer_of

pytest_plugins = ["gateway.testing.fixtures"]

__all__ = [
    "DONE",
    "MESSAGES",
    "NO_PROBES",
    "GatewayFor",
    "Live",
    "RecordedCall",
    "RecordingCaller",
    "ScriptedConnection",
    "ScriptedWorker",
    "answer_of",
    "drive",
    "entry",
    "live",
    "make_call",
    "sse",
]
