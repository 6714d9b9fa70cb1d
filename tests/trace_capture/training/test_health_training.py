"""GET /health/training, over sockets."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import httpx
from gateway_plugins.trace_capture.training.advice import ADVICE, DOCS, OTHER, advice_on
from gateway_plugins.trace_capture.training.shares import Share, Training
from support.gateways.capturing import CAPTURE, call, capturing, chat
from support.gateways.watched_pages import bearer, keys
from support.paths import DOCS as MANUALS

from gateway import Reason
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live

Json = Any


async def told(live: Live, **query: str | float) -> Json:
    answer = await live.client.get("/health/training", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def send(live: Live, session: str, agent: Mapping[str, str], fault: str = "") -> None:
    headers = {**agent, **({"x-sim-fault": fault} if fault else {})}
    path = f"/sessions/{session}/v1/chat/completions"
    with contextlib.suppress(httpx.HTTPError):  # the fault
        await live.client.post(path, json=chat(stream=True), headers=headers)


async def test_shares_by_harness_and_worker_with_the_reasons_ranked(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    codex, other = {"user-agent": "codex_exec/0.171.0"}, {"user-agent": "OpenAI/Python 2.20.0"}
    for fault in ("", "no_ids", "no_ids", "abort"):
        await send(live, "a", codex, fault)
    await send(live, "b", codex)
    await send(live, "c", other)
    found = await told(live)
    shares = {one["name"]: one for one in found["harnesses"]}
    assert {name: one["calls"] for name, one in shares.items()} == {"codex": 5, "OpenAI/Python": 1}
    assert (shares["codex"]["complete_calls"], shares["codex"]["sessions"]) == (2, 2)
    assert shares["codex"]["complete_sessions"] == 1
    assert shares["codex"]["trainable_tokens"] < shares["codex"]["sampled_tokens"]
    assert found["total"]["calls"] == 6
    assert [one["name"] for one in found["workers"]] == [live.gateway.workers.all[0].id]
    assert [one["name"] for one in found["models"]] == ["sim"]
    assert sum(one["calls"] for one in found["hours"]) == 6
    ranked = [(one["calls"], one["reason"]) for one in found["reasons"]]
    assert ranked[0][0] == 2
    assert (1, "aborted") in ranked
    assert all(one["what_to_do"] == ADVICE[one["reason"]] for one in found["reasons"])
    alone = await told(live, harness="OpenAI/Python")
    assert (alone["total"]["calls"], alone["reasons"]) == (1, [])
    assert (await told(live, since=0, until=7200))["total"]["calls"] == 0


async def test_counts_are_those_of_all_gateways_that_share_the_file_and_stay_after_deletion(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    one, other = [await capturing(gateway_for, tmp_path) for _ in range(2)]
    for live in (one, other, one):
        await call(live, "s")
    assert (await told(one))["total"]["calls"] == 3
    await call(other, "t")
    await one.client.delete("/sessions/s")
    await other.client.delete("/sessions/t")
    found = (await told(other))["total"]
    assert (found["calls"], found["sessions"], found["complete_sessions"]) == (4, 2, 2)
    await call(one, "s")
    assert (await told(one, model="sim"))["total"]["calls"] == 5


async def test_training_health_needs_monitor_and_names_no_session(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path
) -> None:
    live = await gateway_for(keys(tmp_path), "sessions", CAPTURE)
    path = "/sessions/secret-name/v1/chat/completions"
    answer = await live.client.post(path, json=chat(), headers=bearer("trainer"))
    assert answer.status_code == 200
    refused = await live.client.get("/health/training", headers=bearer("trainer"))
    assert refused.json()["error"]["code"] == "missing_scope"
    seen = await live.client.get("/health/training", headers=bearer("watcher"))
    assert (seen.json()["total"]["calls"], "secret-name" in seen.text) == (1, False)


async def test_training_health_refuses_what_it_does_not_understand(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for query in ({"since": "x"}, {"since": -1}, {"since": 9, "until": 8}, {"wrong": 1}):
        answer = await live.client.get("/health/training", params=query)
        assert answer.status_code == 400, query
    assert (await told(live, since=0, until=1e12))["hours"] == []


def test_each_reason_has_advice_that_the_manual_has_too() -> None:
    assert {*ADVICE} == {*get_args(Reason)}
    assert advice_on("a_plugin's") == OTHER
    page, _, place = DOCS.rpartition("/")[2].partition("#")
    section = (MANUALS / page).read_text().split("### What to do about each reason\n")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section.split("\n### ")[0], re.MULTILINE)
    assert dict(rows) == ADVICE
    assert place == "what-to-do-about-each-reason"


def test_the_manual_names_each_field() -> None:
    section = (MANUALS / "capture.md").read_text().split("### Health of training data\n")[1]
    section = section.split("\n#")[0]
    for name in (*Training.__struct_fields__, *Share.__struct_fields__):
        assert f"`{name}`" in section, name
    assert "at most 100" in section.lower()
