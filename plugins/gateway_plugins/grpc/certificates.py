"""The files of TLS, read again when they change."""

import logging
import ssl
from pathlib import Path

from gateway import ConfigError
from gateway_plugins.grpc.options import Tls

log = logging.getLogger("gateway")

Pem = tuple[bytes, bytes, bytes | None]
"""Certificates of the server, its key, and the certificates that clients' are checked by."""


class Certificates:
    """Reads the files of `options`. `require_client`: callers without a certificate are refused.

    Raises ConfigError if the files cannot be read or do not fit together.
    """

    def __init__(self, options: Tls) -> None:
        self.require_client = options.require_client_cert
        self._options = options
        if self.require_client != (options.client_ca is not None):
            # The library has no handshake that asks for a certificate and goes on without one.
            raise ConfigError("tls: client_ca and `require_client_cert: true` need each other")
        self._problem = ""
        self._current: Pem | None = None
        self._current = self._load()

    def read(self) -> Pem:
        """Return what the files had when they were last good."""
        assert self._current is not None
        return self._current

    def has_changed(self) -> bool:
        """Read the files again; whether they differ. Files that are not good change nothing."""
        try:
            found = self._load()
        except ConfigError as error:
            self._tell(str(error))
            return False
        self._problem = ""
        changed, self._current = found != self._current, found
        if changed:
            log.info("new handshakes of gRPC use the new certificates")
        return changed

    def _tell(self, problem: str) -> None:
        if problem != self._problem:  # callers may ask for many handshakes
            self._problem = problem
            log.warning("the certificates of gRPC stay as they were: %s", problem)

    def _load(self) -> Pem:
        """Return what the files have. Raises ConfigError if that is not good."""
        found = self._pem()
        if found == self._current:
            return found
        self._check()
        if self._pem() != found:
            raise ConfigError("tls: the files are just being replaced")
        return found

    def _pem(self) -> Pem:
        tls = self._options
        ca = None if tls.client_ca is None else _bytes_of("client_ca", tls.client_ca)
        return _bytes_of("cert", tls.cert), _bytes_of("key", tls.key), ca

    def _check(self) -> None:
        """Raise ConfigError if the files do not fit together: the library would say nothing."""
        tls, context = self._options, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(tls.cert, tls.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"tls: {tls.cert} and {tls.key} do not fit: {_words(error)}"
            ) from None
        if tls.client_ca is None:
            return
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"tls.client_ca: {tls.client_ca}: {_words(error)}") from None


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()


def _no_password() -> bytes:
    raise ValueError("the key is encrypted")


def _bytes_of(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{option}: {path} cannot be read: {error.strerror}") from None
