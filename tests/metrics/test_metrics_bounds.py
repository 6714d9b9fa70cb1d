"""No caller can make the metrics grow, or tell anything in them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_plugins.metrics import MAX_FRONTENDS, tally
from gateway_plugins.metrics.labels import OTHER, Names, Routes
from gateway_plugins.metrics.tally import Tally
from gateway_plugins.metrics.watch import Watch
from hypothesis import given
from hypothesis import strategies as st
from support.callers.scraping import scrape
from support.gateways.capturing import chat
from support.gateways.reloadable import reloadable
from support.plugins.hook_probes import Keys
from support.plugins.recording_plugin import Watcher
from support.workers.failing_worker import refusal

from gateway import Histogram
from gateway.config import Worker
from gateway.simulator import Simulator
from gateway.testing import (
    GatewayFor,
    Live,
    RecordedCall,
    ScriptedWorker,
    answer_of,
    entry,
    make_call,
)
from gateway.wire.apis.registry import APIS
from gateway.wire.reported.usage import MAX_TOKENS

CHAT = "/v1/chat/completions"
CANARY = "canary-7f3a"


async def test_metrics_add_no_labels_for_made_up_names(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for("metrics", workers=(Worker(url=simulator.url, models=("sim",)),))
    for _ in range(2):
        for name in ("sim", f"{CANARY}-0"):
            await live.client.post(CHAT, json=chat(model=name))
        await live.client.get(f"/v1/{CANARY}-0")
    before = await scrape(live)
    names = [f"{CANARY}-{number}" for number in range(1, 60)]
    await asyncio.gather(
        *(live.client.post(CHAT, json=chat(model=name)) for name in names),
        *(live.client.get(f"/v1/{name}") for name in names),
        *(live.client.get(f"/v1/models/{name}") for name in names),
    )
    after = await scrape(live)
    assert before.values_of("model") == after.values_of("model") == {"sim", OTHER, ""}
    assert after.values_of("route") - before.values_of("route") == {"/v1/models/{id}"}
    assert after.value("gateway_requests_total") == 6 + 3 * 59
    assert CANARY not in after.text


async def test_metrics_keep_a_few_front_ends_apart(gateway_for: GatewayFor) -> None:
    live = await gateway_for("metrics")
    await live.client.post(CHAT, json=chat())
    for number in range(30):
        await dispatched(live, f"front-{number:02}")
    await dispatched(live, "front-00")
    found = await scrape(live)
    assert found.value("gateway_requests_total", frontend="http") == 1
    assert found.value("gateway_requests_total", frontend="front-00") == 2
    assert found.value("gateway_requests_total", frontend=OTHER) == 31 - MAX_FRONTENDS
    assert found.value("gateway_requests_total") == 32


async def dispatched(live: Live, frontend: str) -> None:
    """Make a call as a front end of this name does."""
    call = make_call(headers={"content-type": "application/json"})
    call.frontend = frontend
    await live.gateway.dispatch(call)


async def test_metrics_show_no_secrets(gateway_for: GatewayFor) -> None:
    live = await gateway_for(
        "sessions", entry(Keys, key=CANARY), "circuit_breaker", "trace_capture", "metrics"
    )
    headers = {"authorization": f"{CANARY}-key", "x-request-id": f"{CANARY}-call"}
    body = chat(CANARY, user=CANARY, session_id=CANARY)
    for stream in (False, True):
        path = f"/sessions/{CANARY}{CHAT}"
        answer = await live.client.post(path, json={**body, "stream": stream}, headers=headers)
        assert answer.status_code == 200
    await live.client.post(CHAT, json=chat(model=CANARY), headers=headers)
    await live.client.post(CHAT, json=body, headers={"authorization": "unknown"})
    found = await scrape(live, **headers)
    assert found.value("gateway_requests_total") == 4
    assert CANARY not in found.text


async def test_metrics_label_at_most_the_configured_number_of_models(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(entry("metrics", max_models=2), workers=(worker.url,))
        for name in ("b", "a", "c", "a"):
            await live.client.post(CHAT, json=chat(model=name))
        found = await scrape(live)
    assert found.values_of("model") == {"a", "b", OTHER}
    assert found.value("gateway_requests_total", model="a") == 2


async def test_metrics_label_principals_only_if_configured(gateway_for: GatewayFor) -> None:
    for wanted in (False, True):
        metrics = entry("metrics", by_principal=wanted, tokens=True)
        live = await gateway_for(entry(Keys, key="team-a"), metrics)
        headers = {"authorization": "team-a secret"}
        await live.client.post(CHAT, json=chat(max_tokens=3), headers=headers)
        found = await scrape(live, **headers)
        assert ("team-a" in found.text) == wanted
        assert "secret" not in found.text
    name = "gateway_principal_tokens_total"
    assert found.value(name, principal="team-a", gen_ai_token_type="output") == 3


@pytest.mark.parametrize("tokens", [-5, 1 << 62, 10**400])
async def test_metrics_clamp_token_counts_of_workers(gateway_for: GatewayFor, tokens: int) -> None:
    body = b'{"choices": [], "usage": {"prompt_tokens": %d, "completion_tokens": 2}}' % tokens
    async with ScriptedWorker(answer_of(body)) as worker:
        metrics = entry("metrics", tokens=True, by_principal=True)
        live = await gateway_for(metrics, Watcher, workers=(worker.url,))
        await live.client.post(CHAT, json=chat())
        found = await scrape(live)
        outcome = await live.plugin(Watcher).outcome()
    usage = "gen_ai_client_token_usage_sum"
    assert 0 <= found.value(usage, gen_ai_token_type="input") <= MAX_TOKENS
    assert found.value("gateway_requests_total") == 1
    assert "Metrics" not in outcome.failures
    assert "metrics" not in outcome.failures


async def test_metrics_forget_a_removed_worker_after_a_while(
    gateway_for: GatewayFor, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = refusal(503)
    async with ScriptedWorker(refusing) as worker:
        live = await gateway_for("metrics", workers=(worker.url, simulator.url))
        for _ in range(2):
            await live.client.post(CHAT, json=chat())
        gone = live.gateway.workers.all[0].id
        await scrape(live)
        live.gateway.workers.remove(gone)
        assert (await scrape(live)).value("gateway_retries_total", worker=gone) >= 1
        assert (await scrape(live)).value("gateway_worker_up", worker=gone) == 0
        monkeypatch.setattr(tally, "FORGET_AFTER", 0.0)
        found = await scrape(live)
    assert gone not in found.text
    assert found.value("gateway_requests_total") == 2


def test_tally_bounds_the_number_of_series(
    make_call: Callable[..., RecordedCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MAX_SERIES", 5)
    monkeypatch.setattr(tally, "MAX_CODES", 3)
    counted = Tally()
    call = make_call()
    for number in range(50):
        call.outcome.status = 100 + number
        counted.way("r", str(number), "w", "http").add(call, call.outcome, None)
    samples = list(counted.samples())
    assert {one.labels["model"] for one in samples} == {"0", "1", "2", "3", "4", OTHER}
    statuses = [one for one in samples if one.name == "gateway_requests_total"]
    assert sum(one.value for one in statuses if isinstance(one.value, int)) == 50
    assert len([one for one in statuses if one.labels["model"] == OTHER]) == 4


@given(st.lists(st.sampled_from(["", "/", "v1", "models", "files", "x", "{id}", "é"])), st.text())
def test_routes_map_any_path_to_a_known_route(parts: list[str], text: str) -> None:
    declared = {path for api in APIS if api.labelled for path in api.paths}
    known = (
        declared
        | {OTHER, "/mine"}
        | {f"/v1/{kind}/{{id}}" for kind in ("batches", "files", "models", "responses")}
    )
    routes = Routes(["/mine"])
    assert {routes.of("/" + "/".join(parts)), routes.of(text), routes.of("/mine")} <= known


@given(st.lists(st.tuples(st.text(max_size=3), st.booleans())), st.integers(0, 3))
def test_names_keep_the_first_good_ones_up_to_the_limit(
    given_: list[tuple[str, bool]], most: int
) -> None:
    names = Names(most)
    known: list[str] = []
    for name, good in given_:
        if good and name not in known and len(known) < most and name.isprintable():
            known.append(name)
        assert names.of(name, good=good) == (name if name in known else OTHER)


def test_names_replace_a_name_that_is_too_long() -> None:
    assert Names(5).of("a" * 129, good=True) == OTHER


@given(
    st.lists(st.integers(1, 9), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, 10)),
    st.lists(st.integers(0, 10)),
)
def test_histogram_counts_each_value_once(
    bounds: list[int], some: list[int], others: list[int]
) -> None:
    histogram, other = Histogram(tuple(bounds)), Histogram(tuple(bounds))
    for value in some:
        histogram.add(value)
    for value in others:
        other.add(value)
    before = histogram.copy()
    histogram.merge(other)
    values = [*some, *others]
    for place, bound in enumerate(bounds):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)
    assert (sum(histogram.counts), sum(before.counts)) == (len(values), len(some))
    assert histogram.sum == sum(values)


@given(st.lists(st.integers(1, 4), min_size=1), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_watch_counts_one_gap_less_than_stream_events(reads: list[int], end: bytes) -> None:
    watch = Watch()
    watch.started(200, [(b"content-type", b"Text/Event-Stream; charset=utf-8")])
    for events in reads:
        watch.gaps.add(b"data: ")
        assert min(watch.gaps.histogram.counts) >= 0
        watch.gaps.add(b"1" + end + (b"data: 2" + end) * (events - 1))
    assert watch.gaps.first
    counts = watch.gaps.histogram.counts
    assert sum(counts) == sum(reads) - 1
    assert counts[0] >= sum(reads) - len(reads)


def test_watch_counts_no_gaps_in_a_plain_response() -> None:
    watch = Watch()
    watch.started(200, [(b"content-type", b"application/json")])
    watch.gaps.add(b"{}\n\n")
    watch.gaps.add(b"{}\n\n")
    assert not watch.gaps.first
    assert not watch.gaps.histogram.filled


async def test_metrics_reload_changes_options_and_keeps_counts(tmp_path: Path) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        file, workers = tmp_path / "gateway.yaml", [worker.url]
        async with reloadable(file, "metrics", workers=workers) as running:
            await running.client.post(CHAT, json=chat(model="a"))
            await running.changed(
                ("metrics", {"max_models": 1, "routes": ["/v1/x"]}), workers=workers
            )
            await running.client.post(CHAT, json=chat(model="b"))
            await running.client.post("/v1/x", json={})
            found = await scrape(running.live)
    assert found.values_of("model") == {"a", OTHER, ""}
    assert found.values_of("route") == {CHAT, "/v1/x"}
