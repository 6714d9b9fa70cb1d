"""The routes /ui/... answer in the shapes of the replaced system, from memory and the database."""

from pathlib import Path
from typing import get_type_hints

import pytest
from gateway_plugins.dashboard.matrix import matrix
from gateway_plugins.dashboard.ui import Summary
from support.gateways.capturing import chat
from support.gateways.watched_pages import Offers, bearer, keys
from support.runtime.boxes import CHAT, QUICK, box, model

from gateway.testing import GatewayFor, entry

ROUTES = ("/ui/summary", "/ui/queue", "/ui/evals", "/ui/eval_matrix", "/ui/runtime/logs")


async def test_routes_are_empty_without_the_plugins_that_fill_them(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard")
    found = {path: (await live.client.get(path)).json() for path in ROUTES}
    assert found["/ui/queue"] == {"items": [], "queued_total": 0}
    assert found["/ui/evals"] == {"items": []}
    assert found["/ui/eval_matrix"] == {"columns": [], "rows": [], "updated_at": None}
    assert found["/ui/runtime/logs"] == {"container_status": "not running", "text": "", "tail": 200}
    summary = found["/ui/summary"]
    assert list(summary) == list(get_type_hints(Summary))
    assert (summary["last_rt_age_s"], summary["last_runtime_ok_age_s"]) == (-1, None)
    assert (await live.client.post(CHAT, json=chat())).status_code == 200
    summary = (await live.client.get("/ui/summary")).json()
    for age in ("last_rt_age_s", "last_runtime_req_age_s", "last_runtime_ok_age_s"):
        assert 0 <= summary[age] < 60
    assert summary["last_runtime_err_age_s"] is None


async def test_summary_tells_what_the_runtime_does(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for("dashboard", box(tmp_path, model("a"), rules=QUICK), workers=())
    before = (await live.client.get("/ui/summary")).json()
    assert (before["runtime_ready"], before["current_model"]) == (False, None)
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    found = (await live.client.get("/ui/summary")).json()
    told = ("current_model", "runtime_ready", "runtime_status", "container_status", "switching")
    assert [found[name] for name in told] == ["a", True, "ready", "running", False]
    assert (found["runtime_http_ok"], found["tokens"], found["next_model"]) == (True, 100, None)
    assert found["lambda_ewma"] > 0
    log = (await live.client.get("/ui/runtime/logs", params={"tail": 3})).json()
    assert (log["container_status"], log["tail"]) == ("running", 3)
    assert 1 <= len(log["text"].splitlines()) <= 3


async def test_queue_lists_what_runs_then_what_waits(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("batch"), "dashboard", workers=())
    for priority in (1, 2, 3):
        body = {"model": "m", "prompt": "a", "priority": priority}
        answer = await live.client.post("/v1/batch/completions", json=body)
        assert answer.status_code == 202, answer.text
    found = (await live.client.get("/ui/queue", params={"limit": 2})).json()
    assert found["queued_total"] == 3
    [first, second] = found["items"]
    assert list(first) == ["id", "model", "status", "priority", "type", "submit_ts"]
    assert (first["model"], first["status"], first["type"]) == ("m", "queued", "completion")
    assert first["submit_ts"] >= second["submit_ts"]
    assert (await live.client.get("/ui/summary")).json()["queue_depth"] == 3


async def test_routes_ask_for_their_scopes(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "dashboard")
    for path in ROUTES:
        watcher = await live.client.get(path, headers=bearer("watcher"))
        assert watcher.status_code == (403 if path.endswith("logs") else 200), path
        assert (await live.client.get(path, headers=bearer("caller"))).status_code == 403
        assert (await live.client.get(path)).status_code == 401


async def test_fault_13_3_the_tail_is_bounded(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Offers, "dashboard")
    for tail in (0, 5_001, "x"):
        assert (await live.client.get(f"/ui/runtime/logs?tail={tail}")).status_code == 400
    whole = (await live.client.get("/ui/runtime/logs?tail=5000")).json()["text"]
    assert len(whole) == 120_000
    assert whole.endswith("line 4999 " + "x" * 100)
    recent = (await live.client.get("/ui/runtime/logs?since_s=1")).json()
    assert recent["text"] == ""


async def test_fault_13_4_logs_have_a_scope_of_their_own(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(keys(tmp_path), Offers, "dashboard")
    path = "/ui/runtime/logs"
    assert (await live.client.get(path, headers=bearer("watcher"))).status_code == 403
    assert "line 4999" in (await live.client.get(path, headers=bearer("reader"))).text
    parts = {
        name: (await live.client.get("/dashboard/parts", headers=bearer(name))).json()
        for name in ("watcher", "reader")
    }
    assert {*parts["reader"]} - {*parts["watcher"]} == {"Offers.log"}


def score(model: str, evaluation: str, metric: str, value: float | None) -> dict[str, object]:
    return {"model": model, "evaluation": evaluation, "metric": metric, "value": value}


@pytest.mark.parametrize(
    ("evaluation", "metric", "column", "name"),
    [
        ("euroeval", "sst5_macro_f1", "euroeval:sst5", "macro_f1"),
        ("euroeval", "a_b_strict_accuracy", "euroeval:a_b", "strict_accuracy"),
        ("euroeval", "angry_mcc", "euroeval:angry", "mcc"),
        ("lm-harness", "hellaswag:acc", "lm-harness:hellaswag", "acc"),
        ("lm_harness", "hellaswag:acc_norm", "lm-harness:hellaswag", "acc_norm"),
        ("lm_harness", "avg", "lm-harness", "avg"),
        ("own", "a:b", "own", "a:b"),
    ],
)
def test_matrix_has_a_column_for_each_data_set(
    evaluation: str, metric: str, column: str, name: str
) -> None:
    found = matrix([{**score("m", evaluation, metric, 0.5), "ended_at": 7.0}])  # type: ignore[dict-item]
    assert [(one.key, one.metrics) for one in found.columns] == [(column, [name])]
    assert [(row.model, row.data) for row in found.rows] == [("m", {column: {name: 0.5}})]
    assert found.updated_at == 7


def test_matrix_shows_the_two_scores_that_say_most() -> None:
    names = ("zeta", "alpha", "f1", "accuracy", "em")
    rows = [{**score("m", "e", name, 1.0), "ended_at": 1.0} for name in names]
    found = matrix(rows)  # type: ignore[arg-type]
    assert found.columns[0].metrics == ["accuracy", "f1"]
    assert found.rows[0].data == {"e": {"accuracy": 1.0, "f1": 1.0}}
