"""Chat templates: base or instruct, and whether the model reasons."""

import json
from pathlib import Path

import pytest
from gateway_plugins.evaluations.running.templates import Template, template_of


def snapshot(cache: Path, model: str = "a--b", **files: str) -> None:
    folder = cache / f"models--{model}/snapshots/main"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Template(True, False)),
        ({"chat_template__jinja": "{{ x }}"}, Template(False, False)),
        ({"chat_template__jinja": "{{ '<think>' }}"}, Template(False, True)),
        ({"chat_template__jinja": " \n"}, Template(True, False)),
        ({"tokenizer_config__json": '{"chat_template": ""}'}, Template(True, False)),
        ({"tokenizer_config__json": '{"chat_template": null}'}, Template(True, False)),
        ({"tokenizer_config__json": '{"chat_template": "<analysis>"}'}, Template(False, True)),
        (
            {"tokenizer_config__json": '{"chat_template": [{"name": "a", "template": "b"}]}'},
            Template(False, False),
        ),
        ({"tokenizer_config__json": "[" * 100_000}, Template(True, False)),
        ({"tokenizer_config__json": "no JSON"}, Template(True, False)),
        ({"tokenizer_config__json": '{"chat_template": {"a": 5}}'}, Template(True, False)),
    ],
)
def test_fault_11_14_snapshot_says_whether_the_model_is_a_base_model(
    tmp_path: Path, files: dict[str, str], expected: Template
) -> None:
    snapshot(tmp_path, **files)
    assert template_of("a/b", str(tmp_path)) == expected


def test_fault_11_14_downloads_are_looked_for_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot(tmp_path / "hub", tokenizer_config__json=json.dumps({"chat_template": "x"}))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert template_of("a/b", None) == template_of("a/b", str(tmp_path)) == Template(False, False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HOME")
    assert template_of("a/b", None).is_base is False


def test_fault_11_14_model_without_files_is_no_base_model(tmp_path: Path) -> None:
    assert template_of("a/b", str(tmp_path)) == Template(None, False)
