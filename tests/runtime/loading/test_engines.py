"""Commands and environments of engines."""

import itertools
import json
import shlex
from pathlib import Path

import pytest
from gateway_plugins.runtime.loading.arguments import arguments_of
from gateway_plugins.runtime.loading.engines import (
    command_of,
    environment_of,
    hidden_of,
    secrets_of,
)
from gateway_plugins.runtime.options import Docker, Model
from hypothesis import given
from hypothesis import strategies as st

NOWHERE = {"HF_HUB_CACHE": "/no/such/cache"}


def command(model: Model, *, length: int | None = None) -> tuple[str, ...]:
    return command_of(model, "127.0.0.1", 30_000, NOWHERE, length=length)


def test_vllm_is_told_what_to_load_and_what_to_call_it() -> None:
    model = Model(name="small", path="org/small", arguments=("--dtype", "bfloat16"))
    assert command(model) == (
        *("python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/small"),
        *("--host", "127.0.0.1", "--port", "30000", "--served-model-name", "small"),
        *("--dtype", "bfloat16"),
    )


def test_sglang_has_its_own_words() -> None:
    model = Model(name="small", engine="sglang", arguments="--tp 2")
    assert command(model) == (
        *("python3", "-m", "sglang.launch_server", "--model-path", "small"),
        *("--host", "127.0.0.1", "--port", "30000", "--served-model-name", "small", "--tp", "2"),
    )


def test_a_command_of_its_own_is_filled_in_once() -> None:
    parts = ("serve", "--at={host}:{port}", "{name}", "{path}", '{"a": 1}', "{other}")
    model = Model(name="{port}", path="p", command=parts, arguments="-v")
    assert command(model) == (
        *("serve", "--at=127.0.0.1:30000", "{port}", "p", '{"a": 1}', "{other}", "-v"),
    )


def test_fault_6_03_json_in_the_arguments_survives() -> None:
    config = {"method": "ngram", "words": ["a b", "c'd"]}
    text = f"--speculative-config {shlex.quote(json.dumps(config))} --x 'a b'"
    *_, option, value, _, last = command(Model(name="m", arguments=text))
    assert (option, json.loads(value), last) == ("--speculative-config", config, "a b")
    listed = Model(name="m", arguments=("--speculative-config", json.dumps(config)))
    assert json.loads(command(listed)[-1]) == config


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_arguments_that_a_shell_would_split_are_split_so(words: list[str]) -> None:
    assert arguments_of(Model(name="m", arguments=shlex.join(words))) == tuple(words)


def test_a_quotation_without_an_end_is_an_error_that_names_the_model() -> None:
    with pytest.raises(ValueError, match="the arguments of m: No closing quotation"):
        command(Model(name="m", arguments="--x 'a"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--a", "1", "--max-model-len", "40000"),
        ("--max-model-len=40000", "--a", "1"),
        ("--max_model_len", "40000", "--a", "1", "--max-model-len", "50000"),
        ("--a", "1"),
    ],
)
def test_the_length_of_the_restart_replaces_others(arguments: tuple[str, ...]) -> None:
    short = command(Model(name="m", arguments=arguments), length=4_904)
    assert short[-4:] == ("--a", "1", "--max-model-len", "4904")
    assert not any("0000" in part and part != "30000" for part in short)


def test_the_length_replaces_that_of_a_command() -> None:
    model = Model(name="m", command=("serve", "--max-model-len", "9", "-v"))
    assert command(model, length=7) == ("serve", "-v", "--max-model-len", "7")


def test_engines_that_sleep_are_told_so() -> None:
    model = Model(name="m", sleep_level=1)
    assert command(model)[-1] == "--enable-sleep-mode"
    assert environment_of(model, {})["VLLM_SERVER_DEV_MODE"] == "1"
    given = Model(name="m", sleep_level=1, arguments=("--enable-sleep-mode",))
    assert command(given).count("--enable-sleep-mode") == 1
    assert "VLLM_SERVER_DEV_MODE" not in environment_of(Model(name="m"), {})


def test_fault_6_02_secrets_are_in_the_environment() -> None:
    secrets = secrets_of(("HF_TOKEN", "NONE", "EMPTY"), {"HF_TOKEN": "hf_1", "EMPTY": "", "X": "y"})
    model = Model(name="m", environment={"TQDM_DISABLE": "0", "A": "b"})
    assert environment_of(model, secrets) == {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "0",
        "PYTHONUNBUFFERED": "1",
        "VLLM_SLEEP_WHEN_IDLE": "1",
        "HF_TOKEN": "hf_1",
        "A": "b",
    }


def test_what_looks_like_a_secret_is_hidden() -> None:
    model = Model(
        name="m",
        environment={"WANDB_API_KEY": "wb-1", "A": "b", "MY_TOKEN": ""},
        arguments="--api-key sk-1 --hf-token=hf-2 --tokenizer t --key",
    )
    assert hidden_of(model, {"HF_TOKEN": "hf-1"}) == {"hf-1", "wb-1", "sk-1", "hf-2"}


def test_model_without_a_command_and_arguments_hides_its_secrets_too() -> None:
    assert hidden_of(Model(name="m"), {"HF_TOKEN": "hf-1"}) == {"hf-1"}


def snapshot(cache: Path, name: str, *, revision: str | None, template: bool = True) -> Path:
    folder = cache / f"models--{name.replace('/', '--')}"
    place = folder / "snapshots" / (revision or "main")
    place.mkdir(parents=True)
    if revision is not None:
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(revision)
    if template:
        (place / "chat_template.jinja").touch()
    return place


def template_in(command: tuple[str, ...]) -> str | None:
    found = dict(itertools.pairwise(command))
    return found.get("--chat-template")


@pytest.mark.parametrize("revision", ["abc123", None])
def test_a_chat_template_in_the_snapshot_is_named(tmp_path: Path, revision: str | None) -> None:
    place = snapshot(tmp_path / "hub", "org/small", revision=revision)
    found = command_of(Model(name="org/small"), "h", 1, {"HF_HOME": str(tmp_path)})
    assert template_in(found) == str(place / "chat_template.jinja")


def test_a_chat_template_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").touch()
    found = command_of(Model(name="m", path=str(tmp_path)), "h", 1, NOWHERE)
    assert template_in(found) == str(tmp_path / "chat_template.jinja")


def test_no_chat_template_is_named_without_need(tmp_path: Path) -> None:
    cache = {"HF_HUB_CACHE": str(tmp_path)}
    snapshot(tmp_path, "a/bare", revision="1", template=False)
    snapshot(tmp_path, "a/given", revision="1")
    assert template_in(command_of(Model(name="a/bare"), "h", 1, cache)) is None
    given = Model(name="a/given", arguments=("--chat-template=x.jinja",))
    assert template_in(command_of(given, "h", 1, cache)) is None
    own = Model(name="a/given", command=("serve",))
    assert command_of(own, "h", 1, cache) == ("serve",)


def test_fault_6_04_a_chat_template_is_found_through_the_volumes_of_a_container(
    tmp_path: Path,
) -> None:
    place = snapshot(tmp_path / "cache/hub", "org/small", revision="abc123")
    inside = "/root/.cache/huggingface"
    docker = Docker(image="vllm", volumes=("named:/x", f"{tmp_path}/cache:{inside}:ro"))
    expected = f"{inside}/hub/models--org--small/snapshots/abc123/chat_template.jinja"
    elsewhere = {"HF_HOME": "/gateway/has/another"}
    found = command_of(Model(name="org/small", docker=docker), "h", 1, elsewhere)
    assert template_in(found) == expected
    by_path = Model(name="m", path=expected.rpartition("/")[0], docker=docker)
    assert template_in(command_of(by_path, "h", 1, elsewhere)) == expected
    unseen = Model(name="m", path=str(place), docker=docker)
    assert template_in(command_of(unseen, "h", 1, elsewhere)) is None
