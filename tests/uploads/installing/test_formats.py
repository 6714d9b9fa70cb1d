"""Models of all formats arrive, and lie where the tools of the hub find them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from support.uploads.asking import install, uploading
from support.uploads.models import gguf, gz, installed, model, safetensors, tar, zst

from gateway.testing import GatewayFor

MODEL = model()
FORMATS: Mapping[str, tuple[bytes, dict[str, bytes]]] = {
    "tar": (tar(MODEL), MODEL),
    "tar.gz": (gz(tar(MODEL)), MODEL),
    "tar.zst": (zst(tar(MODEL)), MODEL),
    "without a top folder": (tar(MODEL, ""), MODEL),
    "in a folder `.`": (tar(MODEL, "./"), MODEL),
    "safetensors": (safetensors(), {"model.safetensors": safetensors()}),
    "gguf": (gguf(), {"model.gguf": gguf()}),
    "archive of a gguf": (tar({"tiny-q4.gguf": gguf()}), {"tiny-q4.gguf": gguf()}),
    "several frames": (zst(tar(MODEL)[:700]) + zst(tar(MODEL)[700:]), MODEL),
    "several members": (gz(tar(MODEL)[:700]) + gz(tar(MODEL)[700:]) + bytes(512), MODEL),
}


@pytest.mark.parametrize("kind", FORMATS)
async def test_model_is_installed(gateway_for: GatewayFor, tmp_path: Path, kind: str) -> None:
    data, files = FORMATS[kind]
    live = await uploading(gateway_for, tmp_path)
    found = await install(live, data)
    assert (found["status"], found["error"]) == ("completed", None)
    assert installed(tmp_path / "cache", "org/tiny") == files
