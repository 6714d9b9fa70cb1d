"""`gateway upload FILE --model NAME` uploads a model, and waits until it is installed."""

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from gateway import ConfigError
from gateway_plugins.uploads.cli.progress import Bar
from gateway_plugins.uploads.cli.remembered import Remembered
from gateway_plugins.uploads.cli.sending import Rejected, Sending
from gateway_plugins.uploads.places import is_name

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

URL = "http://127.0.0.1:9090"
KEY = "GATEWAY_API_KEY"
PIECE = 1024 * 1024

STATUS = """\
The same command goes on with an upload that was broken off. Exit status: 0 the model is installed;
1 the gateway has refused it, and standard error says why; 2 nothing was sent, or not all."""


def add_upload_command(subcommands: "Subcommands") -> None:
    """Add the command `upload`."""
    parser = subcommands.add_parser("upload", help="upload a model to a gateway", epilog=STATUS)
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help=".tar, .tar.gz, .tar.zst, .safetensors or .gguf; pack a folder with `tar -cf` first",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="NAME or ORGANISATION/NAME")
    parser.add_argument("--url", default=URL, help=f"of the gateway ({URL})")
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"with the scope `upload`; by default {KEY} is read"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the model of this name, if there is one"
    )
    parser.add_argument(
        "--retries", type=int, default=20, metavar="N", help="in a row without a byte (20)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=upload)


def upload(options: argparse.Namespace) -> int:
    """Upload the file that the options name. Raises ConfigError."""
    if not is_name(options.model):
        raise ConfigError(f"--model {options.model}: this is no name of a model at the hub")
    try:
        size = options.file.stat().st_size
        bar = Bar(sys.stderr, size, is_quiet=options.quiet)
        digest = digest_of(options.file, bar)
    except OSError as error:
        raise ConfigError(f"{options.file}: {error.strerror}") from None
    key = options.api_key or os.environ.get(KEY)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=options.url, headers=headers, timeout=90.0) as client:
        return _upload(options, client, digest, size, bar)


def _upload(
    options: argparse.Namespace, client: httpx.Client, digest: str, size: int, bar: Bar
) -> int:
    remembered = Remembered(options.url, options.model, digest, os.environ)
    sending = Sending(client, options.file, size, bar, options.retries)
    try:
        path = sending.send(options.model, digest, remembered, overwrite=options.overwrite)
        found = sending.wait(path)
    except Rejected as rejected:
        raise ConfigError(f"{options.file}: {rejected}") from None
    finally:
        bar.end()
    remembered.forget()
    if found.status == "completed":
        sys.stdout.write(f"{options.model} is installed\n")
        return 0
    sys.stderr.write(f"{options.model} is not installed: {found.status}: {found.error}\n")
    return 1


def digest_of(file: Path, bar: Bar) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    digest, done = hashlib.sha256(), 0
    with file.open("rb") as content:
        while data := content.read(PIECE):
            digest.update(data)
            done += len(data)
            bar.show("checksum", done)
    return digest.hexdigest()
