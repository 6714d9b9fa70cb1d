"""Who downloads a model: the gateway, or its engine."""

import os
from pathlib import Path

import pytest
from gateway_plugins.runtime.models.choosing import place_to_fill, problem_of
from gateway_plugins.runtime.options import Docker, Model

CACHE = {"HF_HUB_CACHE": "/cache"}
INSIDE = "/root/.cache/huggingface"


def filled(model: Model, **environ: str) -> Path | None:
    place = place_to_fill(model, {**CACHE, **environ})
    return None if place is None else place.here


@pytest.mark.parametrize(
    "options",
    [
        {"download": "engine"},
        {"command": ("serve",)},
        {"path": "/srv/model"},
        {"url": "http://127.0.0.1:1", "sleep_level": 1},
        {"arguments": "--download-dir /x"},
        {"arguments": ("--load_format=runai_streamer",)},
        {"arguments": "an open 'quotation"},
        {"environment": {"VLLM_USE_MODELSCOPE": "True"}},
        {"docker": Docker(image="i")},
    ],
)
def test_engine_downloads_as_before_where_its_files_are_elsewhere(
    options: dict[str, object],
) -> None:
    pytest.importorskip("huggingface_hub")
    assert filled(Model(**{"name": "a/b", **options})) is None  # type: ignore[arg-type]


def test_gateway_downloads_what_the_usual_command_loads_from_the_hub() -> None:
    pytest.importorskip("huggingface_hub")
    here = Path("/cache/models--a--b")
    assert filled(Model(name="m", path="a/b", arguments="--load-format auto")) == here
    docker = Docker(image="i", volumes=(f"/host:{INSIDE}",))
    assert filled(Model(name="a/b", docker=docker)) == Path("/host/hub/models--a--b")
    assert filled(Model(name="a/b", command=("serve",), download="gateway")) == here


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "/srv/model"}, "ORGANISATION/NAME"),
        ({"url": "http://127.0.0.1:1"}, "url"),
        ({"docker": Docker(image="i")}, "docker.volumes"),
    ],
)
def test_download_that_is_impossible_is_a_mistake(options: dict[str, object], words: str) -> None:
    pytest.importorskip("huggingface_hub")
    model = Model(**{"name": "a/b", "download": "gateway", **options})  # type: ignore[arg-type]
    assert words in str(problem_of(model))
    assert problem_of(Model(**{"name": "a/b", **options})) is None  # type: ignore[arg-type]


def test_missing_library_leaves_downloads_to_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "huggingface_hub", raising=False)
    assert filled(Model(name="a/b"), **os.environ) is None
    assert "[hub]" in str(problem_of(Model(name="a/b", download="gateway")))
