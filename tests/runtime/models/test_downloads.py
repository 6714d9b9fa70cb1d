"""Models that are missing on the disk: downloaded once, while all else goes on."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.runtime.fleet import Fleet
from gateway_plugins.runtime.models import hub_process, room
from gateway_plugins.runtime.models.hub_process import Job
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


@pytest.mark.slow
async def test_fault_5_7_a_download_leaves_the_runtime_to_others_and_holds_its_callers(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.open.clear()
    models = model("here"), at_the_hub(hub, tmp_path, "a")
    held = roomy(tmp_path, *models, rules=QUICK, hold=0.2, runtime={"realtime": "here"})
    live = await gateway_for("batch", held, workers=())
    await until(lambda: phases(live)[-1:] == ["hot(here)"])
    await live.client.post("/v1/batch/chat/completions", json=chat(model="a"))
    await until(lambda: downloaded(live, "a") > 0)
    told = (await live.client.post(CHAT, json=chat(model="a"))).json()
    assert (told["type"], told["phase"]) == ("model_cold_start", "downloading")
    assert told["download"]["total_bytes"] == NEEDED
    info = (await live.client.get("/admin/runtime")).json()["models"]["a"]
    assert (info["queued"], info["running"]) == (1, 0)
    assert 0 < info["download"]["done_bytes"] < NEEDED
    assert (await live.client.post(CHAT, json=chat(model="here"))).status_code == 200
    assert phases(live) == ["loading(here)", "hot(here)"]
    hub.open.set()
    await until(lambda: "hot(a)" in phases(live))
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200


def downloaded(live: Live, name: str) -> int:
    """How many bytes of a model have come."""
    progress = fleet_of(live).shelf.progress(name)
    return 0 if progress is None else progress.done


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_hub_that_is_away_is_asked_again_after_a_pause(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.status = 503
    live = await gateway_for(roomy(tmp_path, at_the_hub(hub, tmp_path, "a")), workers=())
    call = asyncio.create_task(live.client.post(CHAT, json=chat(model="a")))
    await until(lambda: fleet_of(live).memory.of("a").reason == "download_failed")
    hub.status = None
    assert (await call).status_code == 200


@pytest.mark.slow
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


@pytest.mark.slow
async def test_download_that_is_cut_off_is_done_anew_and_leaves_no_process(
    gateway_for: GatewayFor, tmp_path: Path, hub: FakeHub
) -> None:
    hub.open.clear()
    hub.gate = "tokenizer.json"  # the weights come, and look like a whole model
    cold, path = at_the_hub(hub, tmp_path, "a"), {"path": str(tmp_path / "gateway.db")}
    live = await gateway_for(roomy(tmp_path, cold, hold=0), workers=(), storage=path)
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 503
    folder = tmp_path / "hub/models--org--small"
    await until(lambda: any(folder.glob("blobs/*.incomplete")))
    await until(lambda: any(folder.glob("snapshots/*/model.safetensors")))
    await until(lambda: any(folder.glob("snapshots/*/config.json")))
    [process] = children()
    os.kill(process, 9)
    await until(lambda: fleet_of(live).memory.of("a").reason == "download_failed")
    assert not (await shown(live, "a"))["on_disk"]
    hub.open.set()
    await until(lambda: phases(live)[-1:] == ["hot(a)"])
    assert any(folder.glob("snapshots/*/tokenizer.json"))
    await until(lambda: not children())


@pytest.mark.parametrize("pinned", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_fault_5_9_longest_unused_model_makes_room_unless_it_is_pinned(
    gateway_for: GatewayFor,
    tmp_path: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    pinned: bool,
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr(room, "disk_of", lambda _: small_disk(cache))
    hub.repositories["org/other"] = SMALL
    old = at_the_hub(hub, tmp_path, "old", pinned=pinned)
    new = at_the_hub(hub, tmp_path, "new", path="org/other")
    paused = {"restarts": {"first": 60, "longest": 60}, "hold": 30}
    options = {"downloads": {"evict": True}, **paused}
    live = await gateway_for(roomy(tmp_path, old, new, **options), workers=())
    await until(lambda: live.gateway.workers.loads)  # it has read what was known before
    await downloaded_before(fleet_of(live), cache / "models--org--small")
    answer = await live.client.post(CHAT, json=chat(model="new"))
    assert (
        (cache / "models--org--small").exists() == (await shown(live, "old"))["on_disk"] == pinned
    )
    if pinned:
        assert (answer.status_code, answer.json()["reason"]) == (503, "disk_full")
    else:
        assert (answer.status_code, (await shown(live, "new"))["on_disk"]) == (200, True)


def small_disk(cache: Path) -> room.Disk:
    """A disk with room for one model and a half."""
    used = sum(path.lstat().st_size for path in cache.rglob("*") if path.is_file())
    return room.Disk(NEEDED * 3 // 2, NEEDED * 3 // 2 - used)


async def downloaded_before(fleet: Fleet, folder: Path) -> None:
    """Put a model there, as if an earlier gateway had downloaded it."""
    put_by_hand(folder)
    (folder / "snapshots/main/model.safetensors").write_bytes(bytes(NEEDED))
    [item] = [one for one in fleet.shelf.items() if one.place and one.place.here == folder]
    assert item.place is not None
    await fleet.shelf.records.begins(item.place, NEEDED, fetched=True)
    await fleet.shelf.records.is_there(item.place, NEEDED)
    await fleet.shelf.look_at(item)


def test_download_of_a_gateway_that_was_killed_ends_and_leaves_no_part(
    tmp_path: Path, hub: FakeHub
) -> None:
    hub.open.clear()
    folder = tmp_path / "models--org--small"
    job = Job("org/small", "main", str(tmp_path), str(folder))
    with subprocess.Popen(
        [sys.executable, "-P", hub_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(job) + b"\ngo\n")
        process.stdin.flush()
        assert b"Plan" in process.stdout.readline()
        assert b"Moved" in process.stdout.readline()
        process.stdin.close()  # as it is when the gateway is gone
        assert process.wait() == hub_process.STOPPED
    parts = [path.name for path in (folder / "blobs").glob("*.incomplete")]
    assert [name for name in parts if name.count(".") == 2] == []  # older libraries resume others


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
