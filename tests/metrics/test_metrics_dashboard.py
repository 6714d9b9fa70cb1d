"""The queries of the dashboard and of the alerts ask for what /metrics tells."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.callers.scraping import Scrape, everything
from support.paths import CONFIGS

from gateway.simulator import Simulator
from gateway.testing import GatewayFor

CONFIGS = CONFIGS
RULES = CONFIGS / "alerts.yml"
ADDED = {"instance", "job"}
"""Labels that Prometheus adds."""

_METRIC = re.compile(r"\b((?:gateway|gen_ai)_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\bby \(([^)]*)\)")


def queries() -> Iterator[str]:
    dashboard = json.loads((CONFIGS / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    rules: Any = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def unresolved(query: str, found: Scrape) -> Iterator[str]:
    """The metrics that a query names and nobody tells, and the labels that they do not have."""
    grouped = {label.strip() for by in _BY.findall(query) for label in by.split(",")} - ADDED
    plain = _BY.sub("", query)
    assert _METRIC.search(plain), query
    for name, selected in _METRIC.findall(plain):
        labels = found.labels_of(name)
        if labels is None:
            yield name
            continue
        wanted = grouped | set(_LABEL.findall(selected))
        yield from (f"{name}: {label}" for label in sorted(wanted - labels))


async def test_dashboard_and_alert_queries_use_existing_metrics(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    found = await everything(gateway_for, simulator)
    asked = list(queries())
    assert len(asked) > 30
    assert [(query, lacking) for query in asked for lacking in unresolved(query, found)] == []


def test_unresolved_finds_queries_of_missing_metrics() -> None:
    found = Scrape('gateway_worker_up{worker="a"} 1\ngateway_wait_bucket{le="1"} 1\n')
    lacking = {
        "gateway_worker_up == 0": [],
        "sum by (le, instance) (rate(gateway_wait_bucket[1m]))": [],
        "sum by (le, who) (rate(gateway_wait_bucket[1m]))": ["gateway_wait_bucket: who"],
        'gateway_worker_up{state="up"}': ["gateway_worker_up: state"],
        "rate(gateway_wait[1m])": ["gateway_wait"],
        "gateway_worker_upp": ["gateway_worker_upp"],
    }
    for query, names in lacking.items():
        assert list(unresolved(query, found)) == names


def test_promtool_accepts_the_alert_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)
