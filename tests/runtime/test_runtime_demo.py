"""`gateway demo --gpu-box`: what it prints can be done."""

from pathlib import Path

import httpx
import pytest
from support.manual import running

pytestmark = pytest.mark.slow


def test_demo_of_a_gpu_box_holds_calls_and_changes_models(tmp_path: Path) -> None:
    with running("demo", "--gpu-box", cwd=tmp_path) as url, httpx.Client(base_url=url) as client:
        body = {"model": "bulk", "prompt": "Hello", "max_tokens": 8}
        answer = client.post("/v1/completions", json=body, timeout=60)
        assert (answer.status_code, answer.json()["model"]) == (200, "bulk")
        item = client.post("/v1/batch/completions", json=body).raise_for_status().json()
        done = client.get(item["status_url"], params={"wait": 30}, timeout=60).json()
        assert done["status"] == "completed"
        [runtime] = client.get("/admin/runtime").json()["runtimes"]
        states = [event["state"] for event in runtime["decisions"]]
        assert states.count("loading(bulk)") == 1
