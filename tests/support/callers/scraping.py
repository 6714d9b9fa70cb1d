"""Reads /metrics as Prometheus does."""

from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.gateways.capturing import chat
from support.plugins.hook_probes import Keys
from support.workers.failing_worker import refusal

from gateway import Call, hookimpl
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

CHAT = "/v1/chat/completions"
ALL = (
    *("limits", "sessions", "circuit_breaker", "weight_sync", "trl"),
    *("gateway_plugins.session_admission:SessionAdmission", "backpressure"),
    "gateway_plugins.load_aware:LoadAware",
    "gateway_plugins.prefix_tree:PrefixTreePolicy",
    *("trace_capture", "usage", "batch", "gateway_plugins.evaluations:Evaluations"),
    "gateway_plugins.translate:Translate",
    "gateway_plugins.join_retries:JoinRetries",
    "gateway_plugins.budgets:Budgets",
    "gateway_plugins.request_migration:RequestMigration",
    entry("gateway_plugins.otel:Otel", endpoint="http://127.0.0.1:9", flush_timeout=0),
)


NOBODY = Path(__file__).with_name("no_keys.json")
"""A file of keys without any."""


class Scrape:
    """What one answer of /metrics said."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {
            one.name: one for one in text_string_to_metric_families(text)
        }
        self._samples = [sample for one in self.families.values() for sample in one.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all that have these labels and perhaps others."""
        return sum(
            one.value
            for one in self._samples
            if one.name == name and labels.items() <= one.labels.items()
        )

    def labels_of(self, name: str) -> set[str] | None:
        """The names of the labels of a series of that name; None: there is none."""
        return next((set(one.labels) for one in self._samples if one.name == name), None)

    def values_of(self, label: str) -> set[str]:
        return {one.labels[label] for one in self._samples if label in one.labels}


async def scrape(live: Live, **headers: str) -> Scrape:
    answer = await live.client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)


class BrokenWatcher:
    @hookimpl
    async def call_finished(self, call: Call) -> None:
        raise RuntimeError("broken")


async def everything(gateway_for: GatewayFor, simulator: Simulator) -> Scrape:
    """A scrape with all plugins that tell something, and something of each to tell."""
    refusing = refusal(503)
    telling = entry("metrics", by_principal=True, tokens=True)
    plugins = (entry(Keys, key="a"), entry("auth", keys_file=str(NOBODY)), *ALL, telling)
    async with ScriptedWorker(refusing) as worker:
        live = await gateway_for(*plugins, BrokenWatcher, workers=(worker.url, simulator.url))
        live.gateway.workers.all[1].weight_version = 7
        key = {"authorization": "abc"}
        for stream in (False, True):
            body = chat(stream=stream)
            assert (await live.client.post(CHAT, json=body, headers=key)).status_code == 200
        assert (await live.client.post(CHAT, json=body)).status_code == 401
        return await scrape(live, **key)
