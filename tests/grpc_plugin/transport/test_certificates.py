"""The files of TLS: what is refused at the start, and what replaces them later."""

from pathlib import Path

import pytest
import trustme
from gateway_plugins.grpc.certificates import Certificates
from gateway_plugins.grpc.options import Tls

from gateway import ConfigError


def write(folder: Path, ca: trustme.CA) -> Tls:
    """Write a certificate of `ca` and its key."""
    made = ca.issue_cert("localhost")
    made.private_key_pem.write_to_path(folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return Tls(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def test_files_that_are_replaced_count_from_the_next_handshake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = write(tmp_path, trustme.CA())
    certificates = Certificates(tls)
    before = certificates.read()
    assert not certificates.has_changed()
    (tmp_path / "cert.pem").write_bytes(b"no certificate")
    assert not certificates.has_changed()
    assert not certificates.has_changed()
    assert certificates.read() == before
    write(tmp_path, trustme.CA())
    assert certificates.has_changed()
    assert certificates.read() != before
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1  # however many handshakes there are
    assert "stay as they were" in told[0]


def test_a_key_of_another_certificate_changes_nothing(tmp_path: Path) -> None:
    tls = write(tmp_path, trustme.CA())
    certificates = Certificates(tls)
    before = certificates.read()
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "key.pem")
    assert not certificates.has_changed()
    assert certificates.read() == before


def test_bad_files_are_an_error_at_the_start(tmp_path: Path) -> None:
    tls = write(tmp_path, trustme.CA())
    with pytest.raises(ConfigError, match=r"missing\.pem cannot be read"):
        Certificates(Tls(cert=tls.cert, key=str(tmp_path / "missing.pem")))
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="do not fit: key values mismatch"):
        Certificates(tls)


@pytest.mark.parametrize("more", [{"client_ca": "ca.pem"}, {"require_client_cert": True}])
def test_certificates_of_callers_are_asked_for_or_not(more: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="need each other"):
        Certificates(Tls(cert="cert.pem", key="key.pem", **more))  # type: ignore[arg-type]
