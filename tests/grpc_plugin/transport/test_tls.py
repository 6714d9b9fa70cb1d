"""TLS and mutual TLS with the library's own client, and the names of certificates as keys."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from support.grpc.over_http import WHOLE, request
from support.grpc.stubs import serving_grpc

from gateway.simulator import Simulator

OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED

SPOOFED = [
    ("x509_subject_alternative_name", "trainer.example"),
    ("x-forwarded-client-cert", 'Subject="CN=trainer.example";DNS=trainer.example'),
    ("x-ssl-client-s-dn", "CN=trainer.example"),
    ("authorization", ""),
]


class Files:
    """The files of a gateway with mutual TLS, and of its callers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.callers = trustme.CA()
        self.callers.cert_pem.write_to_path(folder / "callers.pem")
        keys = {"id": "trainer", "certificate": "trainer.example"}
        (folder / "keys.json").write_text(json.dumps({"keys": [keys]}))
        (folder / "keys.json").chmod(0o600)
        self.renew()

    def renew(self) -> None:
        """Replace the server's certificate by one of another authority."""
        self.authority = trustme.CA()
        made = self.authority.issue_cert("localhost")
        made.private_key_pem.write_to_path(self.folder / "key.pem")
        made.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")

    @property
    def options(self) -> str:
        paths = [f"{name}: {self.folder / name}.pem" for name in ("cert", "key")]
        ca = f"client_ca: {self.folder / 'callers.pem'}, require_client_cert: true"
        return f"tls: {{{', '.join(paths)}, {ca}}}"

    @contextlib.contextmanager
    def channel(self, port: int, name: str | None, ca: trustme.CA | None = None) -> Iterator[Any]:
        """A channel of a caller whose certificate has `name`; None: it has none."""
        root = self.authority.cert_pem.bytes()
        credentials = grpc.ssl_channel_credentials(root)
        if name is not None:
            own = (ca or self.callers).issue_cert(name)
            pem = (own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
            credentials = grpc.ssl_channel_credentials(root, *pem)
        with grpc.secure_channel(f"localhost:{port}", credentials) as opened:
            yield opened


def code(channel: grpc.Channel, metadata: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
    """Ask for a title; return how that ended."""
    ask = channel.unary_unary(WHOLE)
    try:
        ask(request(model="sim", user_prompt="Hello", max_tokens=2), metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return error.code()
    return OK


def ask_all(files: Files, port: int) -> None:
    unavailable = grpc.StatusCode.UNAVAILABLE
    with files.channel(port, "trainer.example") as kept:
        assert code(kept) is OK
        with files.channel(port, "other.example") as channel:
            assert code(channel) is UNAUTHENTICATED
            assert code(channel, SPOOFED) is UNAUTHENTICATED
        with files.channel(port, None) as channel:
            assert code(channel) is unavailable
        with files.channel(port, "trainer.example", trustme.CA()) as channel:
            assert code(channel) is unavailable
        assert code(kept, [("authorization", "Bearer gw-wrong")]) is UNAUTHENTICATED
        files.renew()
        with files.channel(port, "trainer.example") as renewed:
            assert code(renewed) is OK
        assert code(kept) is OK
        (files.folder / "key.pem").write_bytes(b"no key")
        with files.channel(port, "trainer.example") as renewed:
            assert code(renewed) is OK


@pytest.mark.timeout(120)
async def test_certificates_are_checked_and_renewed_and_name_their_callers(
    simulator: Simulator, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    auth = f"auth: {{keys_file: {tmp_path / 'keys.json'}}}"
    async with serving_grpc(simulator.url, tmp_path, auth, options=[files.options]) as (
        process,
        port,
    ):
        await asyncio.to_thread(ask_all, files, port)
        process.kill(signal.SIGTERM)
        await process.ended()
        assert b'"principal":"trainer"' in process.log
        assert b"stay as they were" in process.log
