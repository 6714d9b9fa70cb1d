"""Whether a folder has all that an engine needs of a model."""

import json
from pathlib import Path

import pytest
from gateway_plugins.runtime.models.inspecting import Files, inspect, is_whole
from hypothesis import given
from hypothesis import strategies as st

CONFIG = "config.json"


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        ([CONFIG, "model.safetensors"], True),
        ([CONFIG, "pytorch_model.bin"], True),
        (["params.json", "consolidated.safetensors"], True),
        (["model-Q4_K_M.gguf"], True),
        (["model.safetensors"], False),
        ([CONFIG], False),
        ([CONFIG, "tokenizer.json", "training_args.bin"], False),
        ([CONFIG, "sub/model.safetensors"], False),
        ([CONFIG, "model-00001-of-00002.safetensors"], False),
        ([CONFIG, "model-00001-of-00002.safetensors", "pytorch_model.bin"], True),
        (["m-00001-of-00002.gguf"], False),
        ([], False),
    ],
)
def test_weights_of_one_format_and_a_description_make_a_whole_model(
    names: list[str], whole: bool
) -> None:
    assert is_whole(names, {}) == whole


@given(count=st.integers(1, 30), data=st.data())
def test_model_of_shards_is_whole_only_with_all_of_them(count: int, data: st.DataObject) -> None:
    shards = [f"model-{one:05}-of-{count:05}.safetensors" for one in range(1, count + 1)]
    here = data.draw(st.sets(st.sampled_from(shards)))
    assert is_whole([CONFIG, *here], {}) == (here == set(shards))


def test_files_that_an_index_names_are_needed(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")
    (tmp_path / "one.safetensors").write_bytes(b"1234")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not inspect(tmp_path).whole
    (tmp_path / "two.safetensors").symlink_to(tmp_path / "blob")  # it leads nowhere yet
    assert not inspect(tmp_path).whole
    (tmp_path / "blob").write_bytes(b"12345")
    assert inspect(tmp_path).whole


@given(content=st.binary(max_size=200))
def test_index_of_any_content_breaks_nothing(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.safetensors.index.json").write_bytes(content)
    assert inspect(folder) == Files(1, len(content), whole=False)


def test_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert inspect(tmp_path / "none") == Files()
