"""Models that are missing on the disk: downloaded once, while all else goes on."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.callers.scraping import scrape
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model, phases, starts
from support.runtime.fake_hub import NEEDED, SMALL, FakeHub, fake_hub

from gateway.testing import GatewayFor, Live

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        found.repositories["org/small"] = SMALL
        yield found


def at_the_hub(hub: FakeHub, home: Path, name: str, **options: Any) -> dict[str, Any]:
    """A model at the hub, which the gateway downloads into the cache in `home`."""
    found = model(name, **{"download": "gateway", "path": "org/small", **options})
    found["environment"] |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    return found


def roomy(folder: Path, *models: dict[str, Any], **options: Any) -> Any:
    """A box that leaves nothing free on the disk."""
    downloads = {"keep_free_gb": 0, **options.pop("downloads", {})}
    return box(folder, *models, downloads=downloads, **options)


async def shown(live: Live, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await live.client.get("/admin/models")).json()["models"][name]
    return found


async def test_fault_5_8_one_missing_model_and_many_wishes_cause_one_download(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    cold = at_the_hub(hub, tmp_path, "a"), at_the_hub(hub, tmp_path, "b")
    live = await gateway_for("metrics", roomy(tmp_path, *cold, rules=QUICK), workers=())
    calls = [live.client.post(CHAT, json=chat(model=name)) for name in "ab" * 10]
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 20
    assert (hub.listed, hub.fetched("model.safetensors")) == (1, 1)
    assert hub.fetched("pytorch_model.bin") == 0
    found = await scrape(live)
    assert sum(found.value("gateway_model_downloads_total", model=name) for name in "ab") == 1
    seen = await shown(live, "a")
    commit = hub.commit("org/small")
    folder = tmp_path / "hub/models--org--small/snapshots" / commit
    assert (seen["on_disk"], seen["fetched"], seen["bytes"]) == (True, True, NEEDED)
    assert (seen["folder"], seen["revision"]) == (str(folder), commit)


async def test_fault_5_7_a_download_leaves_the_runtime_to_others_and_holds_its_callers(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.open.clear()
    models = model("here"), at_the_hub(hub, tmp_path, "a")
    held = roomy(tmp_path, *models, rules=QUICK, hold=1, runtime={"realtime": "here"})
    live = await gateway_for("batch", held, workers=())
    await until(lambda: phases(live)[-1:] == ["hot(here)"])
    await live.client.post("/v1/batch/chat/completions", json=chat(model="a"))
    told = (await live.client.post(CHAT, json=chat(model="a"))).json()
    assert (told["type"], told["phase"]) == ("model_cold_start", "downloading")
    assert told["download"]["total_bytes"] == NEEDED
    progress = fleet_of(live).shelf.progress("a")
    assert progress is not None
    await until(lambda: progress.done > 0)
    info = (await live.client.get("/admin/runtime")).json()["models"]["a"]
    assert (info["queued"], info["running"]) == (1, 0)
    assert 0 < info["download"]["done_bytes"] < NEEDED
    assert (await live.client.post(CHAT, json=chat(model="here"))).status_code == 200
    assert phases(live) == ["loading(here)", "hot(here)"]
    hub.open.set()
    await until(lambda: "hot(a)" in phases(live))
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200


async def test_model_that_is_there_is_not_downloaded_after_a_restart(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    for _ in range(2):
        live = await gateway_for(roomy(tmp_path, at_the_hub(hub, tmp_path, "a")), workers=())
        assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    assert hub.listed == 1


async def test_model_that_the_hub_refuses_waits_for_an_operator(
    gateway_for: GatewayFor,
    tmp_path: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.gated = {"org/small"}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    live = await gateway_for(roomy(tmp_path, at_the_hub(hub, tmp_path, "a")), workers=())
    told = (await live.client.post(CHAT, json=chat(model="a"))).json()
    assert (told["type"], told["reason"]) == ("model_load_failed", "access_denied")
    assert (await shown(live, "a"))["reason"] == "access_denied"
    assert fleet_of(live).memory.barred_until("a") == float("inf")
    assert (hub.listed, starts(tmp_path)) == (1, 0)
    hub.token = "hf_wrong"  # the hub has let it in meanwhile
    await live.client.post("/admin/runtime/retry", json={"model": "a"})
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    assert "hf_wrong" not in caplog.text


async def test_model_that_the_hub_refuses_is_loaded_once_it_is_on_the_disk(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    cold = at_the_hub(hub, tmp_path, "a", path="org/mine")
    live = await gateway_for(roomy(tmp_path, cold), workers=())
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 503
    put_by_hand(tmp_path / "hub/models--org--mine")
    assert (await shown(live, "a"))["reason"] is None
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200


def put_by_hand(folder: Path, *names: str) -> None:
    place = folder / "snapshots/main"
    place.mkdir(parents=True)
    for name in names or ("config.json", "model.safetensors"):
        (place / name).write_bytes(b"{}")


async def test_hub_that_is_away_is_asked_again_after_a_pause(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.status = 503
    live = await gateway_for(roomy(tmp_path, at_the_hub(hub, tmp_path, "a")), workers=())
    call = asyncio.create_task(live.client.post(CHAT, json=chat(model="a")))
    await until(lambda: fleet_of(live).memory.of("a").reason == "download_failed")
    hub.status = None
    assert (await call).status_code == 200


async def test_without_a_hub_the_engine_gets_what_is_on_the_disk(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.status = 503
    put_by_hand(tmp_path / "hub/models--org--small", "weights.of.another.kind")
    live = await gateway_for(roomy(tmp_path, at_the_hub(hub, tmp_path, "a")), workers=())
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    assert not (await shown(live, "a"))["fetched"]


async def test_fault_5_9_model_that_does_not_fit_is_refused_with_what_it_needs(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    full = {"downloads": {"keep_free_gb": 1e9}, "restarts": {"first": 60, "longest": 60}, "hold": 5}
    cold = at_the_hub(hub, tmp_path, "a")
    live = await gateway_for(roomy(tmp_path, cold, **full), workers=())
    told = (await live.client.post(CHAT, json=chat(model="a"))).json()
    assert (told["type"], told["reason"]) == ("model_load_failed", "disk_full")
    assert f"it needs {NEEDED / 1e6:.1f} MB more" in (await shown(live, "a"))["text"]
    assert hub.fetched("model.safetensors") == 0


async def test_download_that_is_cut_off_is_done_anew_and_leaves_no_process(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.open.clear()
    cold, path = at_the_hub(hub, tmp_path, "a"), {"path": str(tmp_path / "gateway.db")}
    live = await gateway_for(roomy(tmp_path, cold, hold=0), workers=(), storage=path)
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 503
    blobs = tmp_path / "hub/models--org--small/blobs"
    await until(lambda: any(blobs.glob("*.incomplete")))
    [process] = children()
    os.kill(process, 9)
    await until(lambda: fleet_of(live).memory.of("a").reason == "download_failed")
    hub.open.set()
    await until(lambda: phases(live)[-1:] == ["hot(a)"])
    await until(lambda: not children())


def children() -> list[int]:
    """The processes that download for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"hub_process" in path.read_bytes() and parent(path.parent) == os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])
