"""What operators see of the runtimes, and what they can do."""

from pathlib import Path

from support.callers.scraping import scrape
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model, reached

from gateway.testing import GatewayFor


async def test_route_shows_states_decisions_and_demand(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, model("a"), model("b"), rules=QUICK), workers=())
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    shown = (await live.client.get("/admin/runtime")).json()
    assert (shown["owned"], shown["held"]) == (True, 0)
    [runtime] = shown["runtimes"]
    assert (runtime["phase"], runtime["model"], runtime["generation"]) == ("hot", "a", 1)
    assert [event["state"] for event in runtime["decisions"]] == ["hot(a)", "loading(a)"]
    assert "waits for a" in runtime["decisions"][1]["reason"]
    assert list(shown["models"]) == ["a", "b"]
    assert shown["models"]["a"]["failures"] == 0


async def test_operator_lets_a_model_that_failed_be_tried_again(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, model("a/b")), workers=())
    fleet = fleet_of(live)
    await until(lambda: live.gateway.workers.loads)  # it has read what was known before
    await fleet.memory.failed("a/b", "access_denied", "the hub refuses", float("inf"))
    refused = await live.client.post(CHAT, json=chat(model="a/b"))
    assert (refused.status_code, refused.json()["reason"]) == (503, "access_denied")
    answer = await live.client.post("/admin/runtime/retry", json={"model": "a/b"})
    assert (answer.status_code, answer.json()["reason"]) == (200, None)
    assert (await live.client.post(CHAT, json=chat(model="a/b"))).status_code == 200
    unknown = await live.client.post("/admin/runtime/retry", json={"model": "c"})
    assert unknown.status_code == 404


async def test_faults_8_4_and_8_5_ready_means_an_answer_and_a_first_start_is_no_switch(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(
        "metrics", box(tmp_path, model("a"), model("b"), rules=QUICK), workers=()
    )
    found = await scrape(live)
    assert (found.value("llm_runtime_ready"), found.value("llm_model_switches_total")) == (0, 0)
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    found = await scrape(live)
    assert (found.value("llm_runtime_ready"), found.value("llm_model_switches_total")) == (1, 0)
    assert found.value("llm_current_model_info", model="a", runtime="gpu") == 1
    assert found.value("llm_model_load_time_seconds_count", model="a") == 1
    assert found.value("llm_token_bucket_remaining", runtime="gpu") == 100
    assert (await live.client.post(CHAT, json=chat(model="b"))).status_code == 200
    found = await scrape(live)
    assert found.value("llm_model_switches_total") == 1
    assert found.values_of("model") >= {"a", "b"}


async def test_failures_count_by_model_and_reason(gateway_for: GatewayFor, tmp_path: Path) -> None:
    broken = model("a", command=["/nonexistent/engine"])
    live = await gateway_for("metrics", box(tmp_path, broken, hold=0.5), workers=())
    await live.client.post(CHAT, json=chat(model="a"))
    await reached(live, lambda state: state == "failed(a)")
    found = await scrape(live)
    assert found.value("llm_model_failures_total", model="a", reason="start_failed") >= 1
