"""What is downloaded of a repository, and what a failure is called."""

import errno

import pytest
from gateway_plugins.runtime.models.hub_process import (
    LONGEST_TEXT,
    ManyGguf,
    Refused,
    refusal,
    selected,
)
from hypothesis import given
from hypothesis import strategies as st
from support.runtime.fake_hub import SMALL

NAMES = st.from_regex(
    r"(original/|sub/|\.)?[a-z]{1,6}\.(safetensors|bin|json|gguf|py)", fullmatch=True
)


def test_weights_in_one_format_are_downloaded_and_what_describes_them() -> None:
    assert selected(SMALL) == ["config.json", "tokenizer.json", "model.safetensors"]
    assert selected(["a.bin", "a.h5", "b.json"]) == ["a.bin", "b.json"]
    assert selected(["a.gguf", "b.json"]) == ["a.gguf", "b.json"]


def test_patterns_name_the_files_instead() -> None:
    names = ["m-Q4.gguf", "m-Q8.gguf", "deep/m-Q4.gguf", "[1].json"]
    assert selected(names, ["*Q4.gguf"]) == ["m-Q4.gguf", "deep/m-Q4.gguf"]
    assert selected(names, ["[[]1].json"]) == ["[1].json"]
    with pytest.raises(ManyGguf, match="files"):
        selected(names)


@given(names=st.lists(NAMES, unique=True))
def test_nothing_is_invented_and_a_config_stays(names: list[str]) -> None:
    try:
        found = selected([*names, "config.json"])
    except ManyGguf:
        return
    assert set(found) <= {*names, "config.json"}
    assert "config.json" in found


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (ConnectionError("refused"), "download_failed"),
        (ManyGguf("several"), "model_not_found"),
    ],
)
def test_errors_have_the_reasons_of_the_table(error: Exception, reason: str) -> None:
    assert refusal(error, None).reason == reason


def test_text_of_a_failure_has_no_token_and_no_signature() -> None:
    error = ValueError("hf_1 at\n https://cdn.hub/file?Signature=abc&x=1 'https://b/c?d' end")
    text = "*** at https://cdn.hub/file 'https://b/c' end"
    assert refusal(error, "hf_1") == Refused("download_failed", text)


@given(text=st.text(), token=st.text(alphabet="abc", min_size=5))
def test_token_is_in_no_text(text: str, token: str) -> None:
    found = refusal(RuntimeError(f"{text}{token}{text}"), token).text
    assert token not in found
    assert len(found) <= LONGEST_TEXT
