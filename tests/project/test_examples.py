"""Each example does what it says, in a real gateway before the simulator."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from support.paths import EXAMPLES

from gateway import ConfigError
from gateway.config import PluginEntry
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, entry

EXAMPLES = EXAMPLES

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story."}]
CHAT = ("/v1/chat/completions", {"messages": MESSAGES})
COMPLETIONS = ("/v1/completions", {"prompt": ["The harbour", "A boat"]})

MOST_LINES = {"feedback.py": 75}
"""Of the example that has a table, routes and a metric; the others have at most 25."""

Body = dict[str, Any]


def example(name: str, **options: object) -> PluginEntry:
    return entry(str(EXAMPLES / name), **options)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_each_example_is_short(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line]
    assert len(lines) <= MOST_LINES.get(file.name, 25)


async def parts_of(client: httpx.AsyncClient, path: str, body: Body) -> list[Body]:
    """A plain answer, or the events of a stream, less what differs from call to call."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        return [_lasting(answer.json())]
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [_lasting(json.loads(event.removeprefix("data: "))) for event in events]


def _lasting(part: Body) -> Body:
    return {key: value for key, value in part.items() if key not in ("id", "created")}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "asked"), [CHAT, COMPLETIONS])
async def test_capture_jsonl_writes_token_ids_and_logprobs_unseen_by_the_caller(
    gateway_for: GatewayFor,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    asked: Body,
    stream: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    live = await gateway_for("sessions", example("capture_jsonl.py"))
    body = {**asked, "n": 2, "seed": 7, "max_tokens": 12, "stream": stream}
    got = await parts_of(live.client, f"/sessions/s-1{path}", body)
    async with httpx.AsyncClient(base_url=simulator.url) as client:
        assert got == await parts_of(client, path, body), "the caller sees nothing of it"
        more = {"return_token_ids": True, "logprobs": path == CHAT[0] or 0, "stream": False}
        [direct] = await parts_of(client, path, body | more)

    line = captured()
    assert line["session"] == "s-1"
    assert line["whole"]
    assert line["prompt"] == asked.get("messages", asked.get("prompt"))
    choices = direct["choices"]
    assert [line["choices"][str(choice["index"])] for choice in choices] == [
        {
            "prompt_token_ids": direct.get("prompt_token_ids") or choice["prompt_token_ids"],
            "token_ids": choice["token_ids"],
            "logprobs": logprobs_of(choice),
        }
        for choice in choices
    ]
    found = line["choices"].values()
    assert len(found) == len(choices)
    assert all(len(one["logprobs"]) == len(one["token_ids"]) for one in found)
    assert sum(len(one["token_ids"]) for one in found) == direct["usage"]["completion_tokens"]


def captured() -> Body:
    """The one line that was written."""
    [line] = Path("captured.jsonl").read_text().splitlines()
    found: Body = json.loads(line)
    return found


def logprobs_of(choice: Body) -> list[float]:
    said = choice["logprobs"]
    if "token_logprobs" in said:
        return list(said["token_logprobs"])
    return [token["logprob"] for token in said["content"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_capture_jsonl_marks_a_broken_response_as_not_whole(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    live = await gateway_for(example("capture_jsonl.py"))
    path, body = CHAT
    headers = {"x-sim-fault": "reset:4"}
    with suppress(httpx.RemoteProtocolError):  # a broken stream must not look whole to its caller
        answer = await live.client.post(path, json={**body, "stream": stream}, headers=headers)
        assert answer.status_code == 502
    line = captured()
    assert not line["whole"]
    assert bool(line["choices"]) == stream, "what came of a stream is kept"


@pytest.mark.parametrize("stream", [False, True])
async def test_session_budget_rejects_calls_of_a_session_over_its_budget(
    gateway_for: GatewayFor, simulator: Simulator, stream: bool
) -> None:
    live = await gateway_for("sessions", example("session_budget.py", tokens=20))
    path, asked = CHAT
    body = {**asked, "n": 2, "max_tokens": 6, "stream": stream, "min_tokens": 6}

    async def status(session: str) -> int:
        return (await live.client.post(f"/sessions/{session}{path}", json=body)).status_code

    assert [await status("greedy") for _ in range(4)] == [200, 200, 429, 429]
    assert await status("frugal") == 200
    assert simulator.stats.served == 3
    [budget] = [plugin.object for plugin in live.gateway.plugins.loaded if "budget" in plugin.name]
    assert budget.used == Counter(greedy=24, frugal=12)


async def test_session_budget_must_be_configured_after_sessions(gateway_for: GatewayFor) -> None:
    with pytest.raises(ConfigError, match="session_budget must come after sessions"):
        await gateway_for(example("session_budget.py"), "sessions")


async def test_replay_returns_a_recorded_response_and_forwards_other_calls(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path
) -> None:
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text(json.dumps({"messages": MESSAGES, "text": "Once upon a time."}))
    live = await gateway_for(example("replay.py", path=str(recorded)))
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="any") as client:
        chat = client.chat.completions
        plain = await chat.create(model="sim", messages=MESSAGES)
        stream = await chat.create(model="sim", messages=MESSAGES, stream=True)
        streamed = [part.choices[0].delta.content async for part in stream]
    assert plain.choices[0].message.content == "Once upon a time."
    assert streamed == ["Once upon a time."]
    assert simulator.stats.accepted == 0
    other = {"messages": [{"role": "user", "content": "And then?"}]}
    assert (await live.client.post(CHAT[0], json=other)).status_code == 200
    assert (await live.client.get("/v1/models")).status_code == 200
    assert simulator.stats.served == 1
