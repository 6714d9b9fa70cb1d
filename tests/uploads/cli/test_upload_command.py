"""`gateway upload`: whole, cut, broken off and begun again, refused."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_plugins.uploads.cli.progress import Bar
from gateway_plugins.uploads.plugin import ModelUploads
from support.uploads.asking import uploading, with_badges
from support.uploads.cutting_proxy import CuttingProxy
from support.uploads.models import installed, model, tar

from gateway.testing import GatewayFor, Live

MODEL = model(size=3_000_000)
ARCHIVE = tar(MODEL)

PROGRAM = """
import argparse, sys
from gateway import ConfigError
from gateway_plugins.uploads.cli.commands import add_upload_command
parser = argparse.ArgumentParser()
add_upload_command(parser.add_subparsers())
options = parser.parse_args()
try:
    sys.exit(options.run(options))
except ConfigError as error:
    sys.exit(str(error))
"""


async def command(folder: Path, url: str, *more: str, **environment: str) -> Process:
    file = folder / "tiny.tar"
    if not file.exists():
        file.write_bytes(ARCHIVE)
    state = {"XDG_STATE_HOME": str(folder / "state"), **environment}
    arguments = ("upload", str(file), "--model", "org/tiny", "--url", url, *more)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **state},
    )


async def run(folder: Path, url: str, *more: str, **environment: str) -> tuple[int, str, str]:
    """The exit status of the command, and what it prints."""
    process = await command(folder, url, *more, **environment)
    out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_model_is_uploaded_through_cuts(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    cuts = [1_000, 50, 200_000, 1_000_000, 3, 70_000]
    async with CuttingProxy(live, cuts).running() as proxy:
        assert await run(tmp_path, proxy.url) == (0, "org/tiny is installed\n", "")
        assert proxy.left == 0
    assert installed(tmp_path / "cache", "org/tiny") == MODEL
    assert not list((tmp_path / "state/gateway/uploads").iterdir())
    status, _, error = await run(tmp_path, live.url)
    assert (status, "name `overwrite`" in error) == (1, True), error
    assert (await run(tmp_path, live.url, "--overwrite"))[0] == 0


async def test_the_same_command_goes_on(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    async with CuttingProxy(live, [1_500_000, *[1] * 400]).running() as proxy:
        process = await command(tmp_path, proxy.url)
        while proxy.cut == 0:  # noqa: ASYNC110  until another process has come so far
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        uploads = live.plugin(ModelUploads).uploads().folder
        [begun] = uploads.all()
        remembered = tmp_path / "state/gateway/uploads"
        [file] = remembered.iterdir()
        assert file.read_text() == f"/upload/{begun}"
        proxy.stop_cutting()
        assert (await run(tmp_path, proxy.url))[0] == 0
    assert installed(tmp_path / "cache", "org/tiny") == MODEL
    assert arrived(live) < len(ARCHIVE) + 1_000


def arrived(live: Live) -> float:
    """How many bytes of uploads the gateway has got."""
    samples = {sample.name: sample.value for sample in live.plugin(ModelUploads).samples()}
    found = samples["llm_upload_bytes_total"]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "a--b"], "no name of a model"),
        (["--url", "http://127.0.0.1:9", "--retries", "0"], "127.0.0.1:9"),
        (["--api-key", "nobody"], "`upload`"),
    ],
)
async def test_refusals_are_told(
    gateway_for: GatewayFor, tmp_path: Path, more: Sequence[str], said: str
) -> None:
    live = await with_badges(gateway_for, tmp_path)
    status, out, error = await run(tmp_path, live.url, *more)
    assert (status, out) == (1, "")
    assert said in error


async def test_model_that_cannot_be_installed_is_told(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    (tmp_path / "tiny.tar").write_bytes(b"hello" * 200)
    live = await with_badges(gateway_for, tmp_path)
    status, _, error = await run(tmp_path, live.url, GATEWAY_API_KEY="x upload")
    assert status == 1
    assert "org/tiny is not installed: failed: the tar archive is broken" in error


def test_bar_shows_what_is_done() -> None:
    class Terminal:
        def __init__(self) -> None:
            self.text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    terminal = Terminal()
    bar = Bar(terminal, 100, is_quiet=False)  # type: ignore[arg-type]
    bar.show("upload", 50)
    bar.show("upload", 60)  # too soon after the first
    bar.end()
    assert "upload [###############               ]  50.0%" in terminal.text
    assert terminal.text.count("\r") == 1
    assert terminal.text.endswith("\n")
