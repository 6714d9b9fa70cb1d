"""Engines of two gateways on one machine are told apart by their databases."""

from pathlib import Path

import pytest
from support.plugins.recording_plugin import until
from support.runtime.boxes import box, model

from gateway.config import Config, StorageSettings
from gateway.testing import NO_PROBES, live

SHOWS = ["sh", "-c", "echo mark $GATEWAY_RUNTIME; exec sleep 600"]


def marks(folder: Path) -> list[str]:
    text = "".join(file.read_text() for file in folder.glob("*.log"))
    return [line.split()[1] for line in text.splitlines() if line.startswith("mark")]


async def owner_in(folder: Path, logs: str) -> str:
    """Return the owner that is in the mark of an engine, whose gateway runs in this folder."""
    runtime = box(folder / logs, model("a", command=SHOWS), runtime={"realtime": "a"}, grace=0.1)
    settings = Config(
        plugins=(runtime,), probes=NO_PROBES, storage=StorageSettings(path="gateway.db")
    )
    async with live(settings):
        await until(lambda: bool(marks(folder / logs)))
        return marks(folder / logs)[0].split("/")[0]


async def test_gateways_with_a_file_of_the_same_name_have_engines_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = []
    for name, logs in (("a", "first"), ("b", "first"), ("a", "second")):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        owners.append(await owner_in(folder, logs))
    assert owners[0] != owners[1]
    assert owners[0] == owners[2], "it finds after a restart what it has left"
