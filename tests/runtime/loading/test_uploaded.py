"""Which snapshot an engine loads, and whether it was uploaded."""

import json
from pathlib import Path

import pytest
from gateway_plugins.runtime.loading.uploaded import exact, snapshot_of, uploaded_at
from gateway_plugins.runtime.options import Docker, Model

COMMIT = "a" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of `org/tiny` in the hub's cache of a home."""
    folder = tmp_path / "hub/models--org--tiny"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots/main").symlink_to(COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    return folder


def test_snapshot_is_found_by_name_by_path_and_by_a_file(folder: Path, tmp_path: Path) -> None:
    snapshot = folder / "snapshots" / COMMIT
    (folder / "blobs").mkdir()
    (folder / "blobs/1").touch()
    (snapshot / "linked.gguf").symlink_to("../../blobs/1")
    (snapshot / "own.gguf").touch()
    environ = {"HF_HOME": str(tmp_path)}
    assert snapshot_of(Model(name="org/tiny"), environ) == snapshot
    for path in ("main", COMMIT, "main/own.gguf", "main/linked.gguf", f"{COMMIT}/linked.gguf"):
        found = snapshot_of(Model(name="m", path=str(folder / "snapshots" / path)), {})
        assert found == snapshot, path


def test_snapshot_in_a_container_is_the_one_of_its_volume(folder: Path, tmp_path: Path) -> None:
    docker = Docker(image="i", volumes=(f"{tmp_path}:/root/.cache/huggingface",))
    inside = "/root/.cache/huggingface/hub/models--org--tiny/snapshots"
    model = Model(name="m", path=f"{inside}/main", docker=docker)
    assert snapshot_of(model, {}) == folder / "snapshots" / COMMIT
    assert exact(model).path == f"{inside}/{COMMIT}"


@pytest.mark.parametrize("path", ["/nowhere", "a/b/c", "models--a/snapshots", "/", "a\0b", "~x"])
def test_other_paths_lead_to_no_snapshot_and_stay(path: str) -> None:
    model = Model(name="m", path=path)
    assert snapshot_of(model, {"HF_HOME": "/nowhere"}) is None
    assert exact(model) == model
    assert uploaded_at(model, {}) is None


def test_links_that_go_round_lead_to_no_snapshot(folder: Path) -> None:
    main = folder / "snapshots/main"
    main.unlink()
    main.symlink_to("main")
    model = Model(name="m", path=str(main / "x"))
    assert snapshot_of(model, {}) is None
    assert uploaded_at(model, {}) is None


def test_engine_gets_the_path_of_the_snapshot_itself(folder: Path) -> None:
    snapshots = folder / "snapshots"
    named = Model(name="m", path=f"{snapshots}/main/own.gguf")
    assert exact(named).path == f"{snapshots}/{COMMIT}/own.gguf"
    itself = Model(name="m", path=f"{snapshots}/{COMMIT}")
    assert exact(itself) == itself
    assert exact(Model(name="org/tiny")) == Model(name="org/tiny")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"uploaded_at": "now"}', b"\xff"])
def test_marker_that_nobody_can_read_is_none(folder: Path, content: bytes) -> None:
    model = Model(name="m", path=str(folder / "snapshots/main"))
    marker = folder / ".uploaded.json"
    assert uploaded_at(model, {}) is None
    marker.write_text(json.dumps({"uploaded_at": 5, "model": "org/tiny"}))
    assert uploaded_at(model, {}) == 5.0
    marker.write_bytes(content)
    assert uploaded_at(model, {}) is None
