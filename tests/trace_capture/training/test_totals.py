"""Counts for Prometheus: right by their labels, and bounded whatever callers name."""

from collections import Counter
from pathlib import Path

import pytest
from gateway_plugins.trace_capture.recording.facts import Facts
from gateway_plugins.trace_capture.training import totals
from gateway_plugins.trace_capture.training.totals import OTHER, Totals
from support.callers.scraping import scrape
from support.gateways.capturing import capturing, chat

from gateway import Sample
from gateway.testing import GatewayFor


def facts(worker: str = "w", harness: str = "codex", sampled: int = 3, reasons: str = "") -> Facts:
    trainable = 0 if reasons else sampled
    return Facts(worker, "", harness, sampled, trainable, reasons)


def told(counted: Totals) -> list[Sample]:
    return list(counted.samples())


async def test_totals_count_calls_tokens_and_reasons_by_worker_model_and_harness(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, "metrics")
    path, codex = "/sessions/s/v1/chat/completions", {"user-agent": "codex_exec/0.171.0"}
    for headers in ({}, codex, {**codex, "x-sim-fault": "abort"}):
        answer = await live.client.post(path, json=chat(), headers=headers)
        assert answer.status_code == 200
    found = await scrape(live)
    calls, tokens = "gateway_training_calls_total", "gateway_training_tokens_total"
    assert found.value(calls) == 3
    assert found.value(calls, harness="codex", verdict="COMPLETE", model="sim") == 1
    assert found.value(calls, harness="python-httpx", verdict="INCOMPLETE") == 0
    worker = live.gateway.workers.all[0].id
    assert found.value("gateway_training_reasons_total", reason="aborted", worker=worker) == 1
    assert found.value(tokens, trainable="false") == 1
    assert found.value(tokens, trainable="true") == 6


def test_a_name_gets_a_label_only_if_something_was_sampled() -> None:
    counted = Totals()
    counted.add(facts(harness="h", sampled=0, reasons="error_answer"), "made-up", complete=False)
    counted.add(facts(harness="h"), "m", complete=True)
    counted.add(facts(harness="x" * 201), "m", complete=True)
    counted.add(facts(sampled=0, reasons="error_answer a_plugins"), "m", complete=False)
    seen: Counter[tuple[str, ...]] = Counter()
    for one in told(counted):
        if one.name == "gateway_training_calls_total" and one.value:
            seen[one.labels["model"], one.labels["harness"], one.labels["verdict"]] += 1
    assert set(seen) == {
        (OTHER, OTHER, "INCOMPLETE"),
        ("m", "h", "COMPLETE"),
        ("m", OTHER, "COMPLETE"),
        ("m", OTHER, "INCOMPLETE"),
    }
    reasons = {one.labels["reason"]: one.value for one in told(counted) if "reason" in one.labels}
    assert reasons == {"error_answer": 2, OTHER: 1}


def test_totals_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_NAMES", 5)
    monkeypatch.setattr(totals, "MAX_GROUPS", 20)
    counted = Totals()
    for number in range(400):
        worker, harness = f"w{number % 20}", f"h{number // 20}"
        counted.add(facts(worker, harness, reasons="aborted"), f"m{number}", complete=False)
    calls = [one for one in told(counted) if one.name == "gateway_training_calls_total"]
    assert len(calls) <= 2 * 21
    assert sum(one.value for one in calls if isinstance(one.value, int)) == 400
    for label in ("worker", "model", "harness"):
        assert len({one.labels[label] for one in calls}) <= 6


def test_a_call_that_was_cut_off_counts_under_its_cause_alone() -> None:
    counted = Totals()
    counted.add(facts(reasons="caller_gone unfinished"), "m", complete=False)
    assert [one.labels["reason"] for one in told(counted) if "reason" in one.labels] == [
        "caller_gone"
    ]
