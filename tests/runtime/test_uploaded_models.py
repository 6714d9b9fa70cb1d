"""Models that are uploaded while a runtime has them: what stays for engines, and what is new."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.uploads.installing.clearing import clear
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, phases, reached, starts
from support.runtime.boxes import model as simulated
from support.runtime.tiny_engines import PROGRAM, tiny
from support.uploads.asking import PLUGIN, install
from support.uploads.models import model, tar

from gateway.testing import GatewayFor, Live, entry

OLD, NEW, NEWEST = (model(fill) for fill in (b"\1", b"\2", b"\3"))

CHECKS = """
import os, sys
weights = open(sys.argv[-1].removeprefix("path=") + "/model.safetensors", "rb").read()
if weights.endswith(b"\\1"):
    sys.exit(os.environ["WORDS"])
"""
"""Beginning of an engine that does not load the old model."""

WORDS = {
    "model_incompatible": "Model architectures ['X'] are not supported for now.",
    "runtime_oom": "CUDA out of memory",
}


def main_of(folder: Path) -> Path:
    return folder / "cache/models--org--tiny/snapshots/main"


def uploaded(folder: Path, *flags: str, **options: Any) -> dict[str, Any]:
    """A model that engines load from where uploads of `org/tiny` go to."""
    given = {"path": str(main_of(folder)), **options}
    return tiny("org/tiny", *flags, "path={path}", **given)


async def gateway_of(
    gateway_for: GatewayFor, folder: Path, *models: dict[str, Any], **options: Any
) -> Live:
    runtime = box(folder, *models, rules=QUICK, **options)
    uploads = entry(PLUGIN, cache=str(folder / "cache"), keep_free_gb=0)
    live = await gateway_for(runtime, uploads, workers=())
    assert (await install(live, tar(OLD)))["status"] == "completed"
    return live


async def replace(live: Live, folder: Path, files: dict[str, bytes]) -> Path:
    """Install another model in place of the one that is there; return where that one is."""
    before = main_of(folder).resolve()
    assert (await install(live, tar(files), overwrite=None))["status"] == "completed"
    clear(folder / "cache", time.time() + 1)
    return before


async def ask(live: Live, name: str = "org/tiny") -> None:
    answer = await live.client.post(CHAT, json=chat(model=name))
    assert answer.status_code == 200, answer.text


def process_of(live: Live) -> int:
    [owner] = fleet_of(live).owners
    assert owner.identity is not None
    return int(owner.identity.split()[1].rstrip(","))


def command_of(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")


async def removed(folder: Path, snapshot: Path) -> None:
    """Wait until a snapshot may be removed, and is."""

    def is_gone() -> bool:
        clear(folder / "cache", time.time() + 1)
        return not snapshot.exists()

    await until(is_gone)


async def test_fault_9_5_a_model_that_was_replaced_stays_until_its_engine_has_ended(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_of(gateway_for, tmp_path, uploaded(tmp_path), tiny("b"))
    await ask(live)
    old = await replace(live, tmp_path, NEW)
    assert f"path={old}" in command_of(process_of(live))
    assert (old / "model.safetensors").read_bytes() == OLD["model.safetensors"]
    await ask(live, "b")
    await removed(tmp_path, old)
    await ask(live)
    new = await replace(live, tmp_path, NEWEST)
    assert (new / "model.safetensors").read_bytes() == NEW["model.safetensors"]
    os.kill(process_of(live), 9)
    await removed(tmp_path, new)


async def test_fault_9_5_a_model_that_is_being_loaded_stays(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    slow = uploaded(tmp_path, "load=600")
    live = await gateway_of(gateway_for, tmp_path, slow, hold=0.5)
    waiting = asyncio.create_task(live.client.post(CHAT, json=chat(model="org/tiny")))
    await reached(live, lambda state: state.startswith("loading"))
    await until(lambda: starts(tmp_path) == 1)
    old = await replace(live, tmp_path, NEW)
    assert old.is_dir()
    assert (await waiting).status_code == 503


@pytest.mark.slow
async def test_engine_that_sleeps_holds_its_model_and_is_started_anew_for_another_one(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    asleep = simulated("org/tiny", "--development", sleep_level=1, path=str(main_of(tmp_path)))
    live = await gateway_of(gateway_for, tmp_path, asleep, tiny("b"))
    await ask(live)
    first = process_of(live)
    await ask(live, "b")
    old = await replace(live, tmp_path, NEW)
    assert alive(first)
    assert old.is_dir()
    await ask(live)
    assert process_of(live) != first
    assert not alive(first)
    await removed(tmp_path, old)


@pytest.mark.parametrize("reason", WORDS)
async def test_failure_of_a_model_is_forgotten_once_another_one_was_uploaded(
    gateway_for: GatewayFor, tmp_path: Path, reason: str
) -> None:
    picky = uploaded(tmp_path, environment={"WORDS": WORDS[reason]})
    picky["command"][4] = CHECKS + PROGRAM
    live = await gateway_of(gateway_for, tmp_path, picky)
    refused = await live.client.post(CHAT, json=chat(model="org/tiny"))
    assert (refused.status_code, refused.json()["reason"]) == (503, reason)
    memory = fleet_of(live).memory
    assert memory.seconds_barred("org/tiny") > 3_600
    assert starts(tmp_path) == 1
    await replace(live, tmp_path, NEW)
    await until(lambda: memory.of("org/tiny").reason is None)
    await ask(live)
    assert phases(live)[-1] == "hot(org/tiny)"
