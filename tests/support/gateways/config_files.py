"""What tests of the configuration begin with: a file that is read, and what is said of it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import (
    Config,
    load,
)
from gateway.errors import ConfigError


def read(
    text: str | bytes,
    environ: Mapping[str, str] = {},
    name: str = "gateway.yaml",
    **overrides: object,
) -> Config:
    file = Path(name)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(file, environ, overrides)


def problems(
    text: str | bytes, environ: Mapping[str, str] = {}, name: str = "gateway.yaml"
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, environ, name)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)


def overridden(**overrides: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(overrides=overrides)
    return list(caught.value.problems)
