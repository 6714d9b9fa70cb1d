"""TLS to the workers: whom the gateway trusts, what it presents, and what callers learn of it."""

import ssl
from pathlib import Path

import httpx
import msgspec
import pytest
import trustme

from gateway import ConfigError, Gateway
from gateway.config import TLS, Config, Worker
from gateway.testing import NO_PROBES, ScriptedConnection, ScriptedWorker, answer_of, live

ADDRESS = "127.0.0.1"


class Files(msgspec.Struct, frozen=True):
    """PEM files; `client` holds a certificate, `key` its key, `both` the two together."""

    ca: str
    other_ca: str
    client: str
    key: str
    both: str


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("secret-folder")
    paths = [folder / f"{name}.pem" for name in Files.__struct_fields__]
    client = ca.issue_cert("gateway.test")
    ca.cert_pem.write_to_path(str(paths[0]))
    trustme.CA().cert_pem.write_to_path(str(paths[1]))
    client.cert_chain_pems[0].write_to_path(str(paths[2]))
    client.private_key_pem.write_to_path(str(paths[3]))
    client.private_key_and_cert_chain_pem.write_to_path(str(paths[4]))
    return Files(*map(str, paths))


def serving(ca: trustme.CA, name: str = ADDRESS, *, demanding: bool = False) -> ScriptedWorker:
    """A worker whose certificate is for `name`; `demanding`: it wants one of its callers too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    if demanding:
        context.verify_mode = ssl.CERT_REQUIRED
        ca.configure_trust(context)
    return ScriptedWorker(answer_of(b'{"object":"list"}'), tls=context)


async def ask(worker: ScriptedWorker, tls: TLS | None) -> httpx.Response:
    config = Config(probes=NO_PROBES, workers=(Worker(url=worker.url, tls=tls),))
    async with live(config) as gateway:
        return await gateway.client.get("/v1/models")


def refused(answer: httpx.Response, files: Files) -> bool:
    """Whether this is the 502 of a connection that never was, and says nothing it should not."""
    folder = str(Path(files.ca).parent)
    message = answer.json()["error"]["message"]
    assert folder not in answer.text
    assert not any(word in message for word in (ADDRESS, ".pem", ".py", "_ssl.c", "/"))
    return answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_connect_failed"


async def test_tls_trusts_the_configured_ca_file(ca: trustme.CA, files: Files) -> None:
    async with serving(ca) as worker:
        answer = await ask(worker, TLS(ca_file=files.ca))
    assert (answer.status_code, answer.json()) == (200, {"object": "list"})
    assert worker.requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")


@pytest.mark.parametrize("which", ["other_ca", "the system's"])
async def test_tls_rejects_a_certificate_of_another_authority(
    ca: trustme.CA, files: Files, which: str
) -> None:
    tls = TLS(ca_file=files.other_ca) if which == "other_ca" else None
    async with serving(ca) as worker:
        answer = await ask(worker, tls)
    assert refused(answer, files)
    assert worker.requests == []


async def test_tls_rejects_a_certificate_for_another_name(ca: trustme.CA, files: Files) -> None:
    async with serving(ca, "other.test") as worker:
        answer = await ask(worker, TLS(ca_file=files.ca))
    assert refused(answer, files)
    assert worker.requests == []


@pytest.mark.parametrize("name", [ADDRESS, "other.test"])
async def test_tls_with_verify_false_accepts_any_certificate(ca: trustme.CA, name: str) -> None:
    async with serving(ca, name) as worker:
        answer = await ask(worker, TLS(verify=False))
    assert answer.status_code == 200


@pytest.mark.parametrize("apart", [True, False])
async def test_tls_presents_the_client_certificate(
    ca: trustme.CA, files: Files, *, apart: bool
) -> None:
    cert, key = (files.client, files.key) if apart else (files.both, None)
    async with serving(ca, demanding=True) as worker:
        answer = await ask(worker, TLS(ca_file=files.ca, cert_file=cert, key_file=key))
    assert answer.status_code == 200


async def test_tls_without_a_client_certificate_fails_if_the_worker_requires_one(
    ca: trustme.CA, files: Files
) -> None:
    """In TLS 1.3 the worker's refusal comes when the connection stands already."""
    async with serving(ca, demanding=True) as worker:
        answer = await ask(worker, TLS(ca_file=files.ca))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] in ("upstream_connect_failed", "upstream_closed")
    assert worker.requests == []


async def test_tls_to_a_plain_http_worker_is_a_failed_connection(files: Files) -> None:
    async def answer_at_once(connection: ScriptedConnection) -> None:
        await connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with ScriptedWorker(answer_at_once) as worker:
        config = Config(
            probes=NO_PROBES, workers=(Worker(url=worker.url.replace("http:", "https:")),)
        )
        async with live(config) as gateway:
            answer = await gateway.client.get("/v1/models")
    assert refused(answer, files)


async def test_tls_connection_is_reused(ca: trustme.CA, files: Files) -> None:
    async with serving(ca) as worker:
        config = Config(
            probes=NO_PROBES, workers=(Worker(url=worker.url, tls=TLS(ca_file=files.ca)),)
        )
        async with live(config) as gateway:
            for _ in range(3):
                assert (await gateway.client.get("/v1/models")).status_code == 200
        assert len(worker.connections) == 1


async def test_tls_forwards_large_bodies_both_ways(ca: trustme.CA, files: Files) -> None:
    large = bytes(range(256)) * 12_000
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(ADDRESS).configure_cert(context)
    async with ScriptedWorker(answer_of(large), tls=context) as worker:
        config = Config(
            probes=NO_PROBES, workers=(Worker(url=worker.url, tls=TLS(ca_file=files.ca)),)
        )
        async with live(config) as gateway:
            answer = await gateway.client.post("/v1/files", content=large)
    assert answer.content == large
    assert worker.requests[0].endswith(b"\r\n\r\n" + large)


def broken(field: str, path: str, files: Files) -> TLS:
    if field == "key_file":
        return TLS(cert_file=files.client, key_file=path)
    return TLS(ca_file=path) if field == "ca_file" else TLS(cert_file=path)


@pytest.mark.parametrize("content", [None, "no certificate"])
@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
def test_tls_config_error_names_the_unusable_file(
    files: Files, tmp_path: Path, field: str, content: str | None
) -> None:
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_text(content)
    tls = broken(field, str(path), files)
    worker = Worker(url="https://127.0.0.1:1", worker_id="the-worker", tls=tls)
    with pytest.raises(ConfigError) as raised:
        Gateway(Config(probes=NO_PROBES, workers=(worker,)))
    [problem] = raised.value.problems
    assert problem.startswith("workers: the-worker: tls: ")
    assert str(path) in problem
