"""Texts in the written configuration arrive at the plugin, whatever their characters are."""

import pytest
from gateway_plugins.runtime.importing.found import Found
from gateway_plugins.runtime.importing.writing import configuration
from gateway_plugins.runtime.options import Options
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import load

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
ODD = [
    "${A}",
    "$${A}",
    "$$${",
    "a\nb\n\n c",
    "- x: [",
    "yes",
    "1e3",
    "~",
    "a\x85b",
    "\u2028",
    "a # b",
    "'\"",
]


@example(arguments=ODD, name="${A}\n# b")
@given(arguments=st.lists(texts | st.sampled_from(ODD), max_size=4), name=texts)
def test_texts_arrive_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str], name: str
) -> None:
    found = Found(
        {"RUNTIME_ARGS": arguments, "REALTIME_MODEL": name, "HOST_HF_CACHE": f"/{name}"}, {}
    )
    path = tmp_path_factory.mktemp("written") / "gateway.yaml"
    path.write_text(configuration(found, name), encoding="utf-8", newline="")
    auth, runtime, *_ = load(path, {}).plugins
    problems: list[str] = []
    options = runtime.options_as(Options, problems)
    assert problems == []
    assert options is not None
    [model] = options.models
    assert (model.arguments, model.name) == (tuple(arguments), name)
    assert options.runtimes[0].realtime == name
    assert model.docker is not None
    assert model.docker.volumes == (f"/{name}:/root/.cache/huggingface",)
    assert auth.options == {"keys_file": name}
