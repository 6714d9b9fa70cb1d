"""The place of a model in the hub's cache is where the hub's own library has it."""

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from gateway_plugins.runtime.loading.snapshots import cache_of, is_name, place_of, revision_of
from gateway_plugins.runtime.options import Docker, Model
from hypothesis import given
from hypothesis import strategies as st

PLACES: list[dict[str, str]] = [
    {"HOME": "/h"},
    {"HOME": "/h", "XDG_CACHE_HOME": "/x"},
    {"HOME": "/h", "HF_HOME": "/f", "XDG_CACHE_HOME": "/x"},
    {"HOME": "/h", "HF_HOME": "~/f"},
    {"HOME": "/h", "HF_HOME": "/f", "HF_HUB_CACHE": "/c"},
]

ASK = """
import importlib, json, os, sys
import huggingface_hub.constants as constants
for place in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(place)
    print(importlib.reload(constants).HF_HUB_CACHE)
"""


def test_fault_5_8_cache_is_the_one_of_the_library() -> None:
    pytest.importorskip("huggingface_hub")
    given = json.dumps(PLACES).encode()
    told = subprocess.run(
        [sys.executable, "-c", ASK], input=given, capture_output=True, check=True
    ).stdout.decode()
    model = Model(name="a/b")
    assert [str(cache_of(model, place)) for place in PLACES] == told.split()


def test_model_in_a_container_is_where_its_volume_is_at_the_host(tmp_path: Path) -> None:
    volumes = (f"{tmp_path}:/root/.cache/huggingface",)
    found = place_of(
        Model(name="a/b", docker=Docker(image="i", volumes=volumes)), {"HF_HOME": "/x"}
    )
    assert found is not None
    assert found.folder == PurePosixPath("/root/.cache/huggingface/hub/models--a--b")
    assert found.here == tmp_path / "hub/models--a--b"
    own = place_of(Model(name="a/b", docker=Docker(image="i")), {})
    assert own is not None
    assert own.here is None


def test_revision_is_the_one_that_the_engine_is_told() -> None:
    assert revision_of(Model(name="m", arguments="--revision dev")) == "dev"
    assert revision_of(Model(name="m", arguments=("--revision=v1",))) == "v1"
    assert revision_of(Model(name="m", arguments=("--revision", "../../x"))) == "main"
    assert revision_of(Model(name="m", arguments="'")) == "main"


def test_reference_leads_to_no_other_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("../../../etc")
    found = place_of(Model(name="a/b"), {"HF_HUB_CACHE": str(tmp_path)})
    assert found is not None
    assert found.snapshot is None


@pytest.mark.parametrize(
    "path", ["/srv/model", "./model", "a/b/c", "s3://a/b", "a--b", "a/b:Q4", "a/..", "", "a/b.git"]
)
def test_paths_are_no_names_at_the_hub(path: str) -> None:
    assert not is_name(path)


def test_each_name_is_one_for_the_library() -> None:
    utils = pytest.importorskip("huggingface_hub.utils")

    @given(st.text(alphabet="ab/-._ :", max_size=8))
    def check(path: str) -> None:
        if is_name(path):
            utils.validate_repo_id(path)

    check()


def test_folder_of_this_machine_is_not_looked_for_at_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    assert place_of(Model(name="a/b"), {}) is None
