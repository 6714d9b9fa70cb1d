"""Which kernel runs: GATEWAY_KERNEL, what has been built, and the fixtures for both."""

import os
from pathlib import Path

import pytest

from gateway import kernel
from gateway.errors import ConfigError
from gateway.kernel import build

CHOSEN = os.environ.get(kernel.VARIABLE)
"""The kernel of the whole run, read when the tests are collected."""


def test_a_test_runs_with_the_kernel_that_its_fixture_names(kernel_of_test: str) -> None:
    active = kernel.active()
    assert active.name == kernel_of_test
    assert str(active).startswith(f"{kernel_of_test} (")


@pytest.mark.usefixtures("kernel_of_test")
class TestMarked:
    def test_a_marked_class_runs_with_both(
        self, started: str, request: pytest.FixtureRequest
    ) -> None:
        assert started == request.node.callspec.params["kernel_of_test"]


def test_an_unmarked_test_beside_them_has_the_kernel_of_the_whole_run() -> None:
    assert os.environ.get(kernel.VARIABLE) == CHOSEN


@pytest.fixture
def started() -> str:
    return kernel.active().name


def test_without_a_choice_the_native_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernel.VARIABLE, raising=False)
    assert kernel.is_built(), "`make` builds it"
    assert kernel.active().name == "native"
    assert kernel.active().problem == ""


def test_an_empty_choice_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "")
    assert kernel.active().name == "native"


def test_an_unknown_kernel_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "rust")
    with pytest.raises(ConfigError, match="GATEWAY_KERNEL=rust: python or native was expected"):
        kernel.active()


def test_each_kernel_in_use_counts_its_own_fallbacks() -> None:
    one, other = kernel.active(), kernel.active()
    one.fallbacks["stream"] += 1
    assert one.fallbacks == {"record": 0, "stream": 1, "plain": 0, "request": 0}
    assert other.fallbacks == {"record": 0, "stream": 0, "plain": 0, "request": 0}


def test_the_kernel_that_runs_was_built_from_these_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernel.VARIABLE, raising=False)
    assert build.is_current()
    assert build.digest() == kernel.active().functions.SOURCES


def test_a_kernel_of_other_sources_is_not_current(tmp_path: Path) -> None:
    target = tmp_path / "_native.abi3.so"
    assert not build.is_current(target)
    target.write_bytes(b"sources-0123456789abcdef")
    assert not build.is_current(target)
