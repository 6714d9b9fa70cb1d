"""Where models go, whose they are, and what stays of those that were replaced."""

import fcntl
import os
import time
from pathlib import Path

import huggingface_hub
import pytest
from gateway_plugins.runtime.loading.uploaded import UPLOADED
from gateway_plugins.uploads.installing.clearing import clear
from gateway_plugins.uploads.places import MARKER, cache_of, marker_of
from support.uploads.asking import (
    begun,
    code,
    create,
    install,
    metadata,
    over,
    patch,
    uploading,
    with_badges,
)
from support.uploads.models import installed, model, tar

from gateway.testing import GatewayFor

OLD, NEW = model(b"\1"), model(b"\2")
NAMES = ("Llama-3.1-8B", "org/Llama-3.1-8B", "a", "_x", "n" * 96, "o" * 96 + "/" + "n" * 96)
WRONG = (".a", "a.", "-a", "a-", "a--b", "a..b", "a/b/c", "/a", "a/", "../a", "n" * 97, "a b")


async def test_fault_9_7_names_by_the_rule_of_the_hub(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    for name in NAMES:
        assert (await create(live, 5, name)).status_code == 201, name
    for name in (*WRONG, "a\nb", "ü", "a.git"):
        refused = await create(live, 5, name)
        assert code(refused) == (400, "invalid_request"), name


def read(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


async def test_fault_9_13_the_library_of_the_hub_finds_the_model(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    live = await uploading(gateway_for, tmp_path)
    assert (await install(live, tar(OLD)))["status"] == "completed"
    found = huggingface_hub.snapshot_download("org/tiny", cache_dir=cache, local_files_only=True)
    assert read(found) == OLD
    assert huggingface_hub.try_to_load_from_cache("org/tiny", "config.json", cache_dir=cache)
    [repository] = huggingface_hub.scan_cache_dir(cache).repos
    assert repository.repo_id == "org/tiny"
    assert (cache / "models--org--tiny/snapshots/main/config.json").is_file()


async def test_fault_9_12_only_the_owner_or_an_admin_replaces_a_model(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    live = await with_badges(gateway_for, tmp_path)
    alice, bob = {"authorization": "alice upload"}, {"authorization": "bob upload"}
    admin = {"authorization": "root admin"}
    again = {"upload-metadata": metadata(model_name="org/tiny", overwrite=None)}
    assert (await install(live, tar(OLD), headers=alice))["status"] == "completed"
    assert code(await create(live, 5, **alice)) == (409, "model_exists")
    assert code(await create(live, 5, None, **bob, **again)) == (403, "model_of_another_key")
    assert code(await create(live, 5, **bob)) == (403, "model_of_another_key")
    found = await install(live, tar(NEW), headers=alice, overwrite=None)
    assert found["status"] == "completed"
    assert installed(cache, "org/tiny") == NEW
    found = await install(live, tar(OLD), headers=admin, overwrite="true")
    assert found["status"] == "completed"
    assert installed(cache, "org/tiny") == OLD
    other = {"upload-metadata": metadata(model_name="org/tiny", overwrite="false")}
    assert code(await create(live, 5, None, **admin, **other)) == (409, "model_exists")


async def test_fault_9_12_a_model_that_nobody_has_uploaded_is_an_admins(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    main = tmp_path / "cache/models--org--tiny/snapshots/main"
    main.mkdir(parents=True)
    (main / "config.json").write_text("{}")
    live = await with_badges(gateway_for, tmp_path)
    again = {"upload-metadata": metadata(model_name="org/tiny", overwrite=None)}
    bob, admin = {"authorization": "bob upload"}, {"authorization": "root upload admin"}
    assert code(await create(live, 5, None, **bob, **again)) == (403, "model_of_another_key")
    assert (await install(live, tar(NEW), headers=admin, overwrite=None))["status"] == "completed"
    assert installed(tmp_path / "cache", "org/tiny") == NEW
    assert len(list(main.parent.iterdir())) == 3  # what was there is still there


async def test_of_two_uploads_of_a_name_the_first_is_installed(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    one, other = await begun(live, len(tar(OLD))), await begun(live, len(tar(NEW)))
    await patch(live, one, 0, tar(OLD))
    assert (await over(live, one))["status"] == "completed"
    await patch(live, other, 0, tar(NEW))
    late = await over(live, other)
    assert (late["status"], late["code"]) == ("failed", "model_exists")
    assert installed(tmp_path / "cache", "org/tiny") == OLD


async def test_replaced_model_stays_until_no_engine_has_it(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    live = await uploading(gateway_for, tmp_path)
    await install(live, tar(OLD))
    old = (cache / "models--org--tiny/snapshots/main").resolve()
    await install(live, tar(NEW), overwrite=None)
    clear(cache, time.time() - 3_600)  # replaced too recently
    assert old.is_dir()
    fd = os.open(old, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        clear(cache, time.time() + 1)
        assert old.is_dir()
    finally:
        os.close(fd)
    clear(cache, time.time() + 1)
    assert not old.exists()
    assert installed(cache, "org/tiny") == NEW


async def test_revisions_that_names_lead_to_are_not_cleared(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = tmp_path / "cache/models--org--tiny"
    live = await uploading(gateway_for, tmp_path)
    for revision, is_named in (("a" * 40, True), ("b" * 40, False)):
        blob = folder / "blobs" / revision[0]
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text("{}")
        os.utime(blob, (1, 1))
        snapshot = folder / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").symlink_to(f"../../blobs/{revision[0]}")
        if is_named:
            (folder / "refs").mkdir()
            (folder / "refs" / "v1").write_text(revision)
    assert (await install(live, tar(NEW), overwrite=None))["status"] == "completed"
    clear(tmp_path / "cache", time.time() + 1)
    assert (folder / "snapshots" / ("a" * 40) / "config.json").read_text() == "{}"
    assert not (folder / "snapshots" / ("b" * 40)).exists()
    assert [path.name for path in (folder / "blobs").iterdir()] == ["a"]
    assert installed(tmp_path / "cache", "org/tiny") == NEW


def test_cache_is_that_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_of({}) == Path("/home/me/.cache/huggingface/hub")
    assert cache_of({"HF_HOME": "/hf"}) == Path("/hf/hub")
    assert cache_of({"HF_HOME": "/hf", "HF_HUB_CACHE": "~/c"}) == Path("/home/me/c")
    assert cache_of({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")


def test_fault_5_9_uploaded_models_are_known_by_a_name_that_both_plugins_have() -> None:
    assert MARKER == UPLOADED


def test_broken_marker_is_none(tmp_path: Path) -> None:
    (tmp_path / ".uploaded.json").write_text("{")
    assert marker_of(tmp_path) is None
    assert marker_of(tmp_path / "missing") is None
