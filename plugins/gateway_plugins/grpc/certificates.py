"""The files of TLS, read again when they change."""

import logging
from pathlib import Path

from gateway import ConfigError
from gateway_plugins.grpc.options import Tls

log = logging.getLogger("gateway")

Pem = tuple[bytes, bytes, bytes | None]
"""Certificates of the server, its key, and the certificates that clients' are checked by."""


class Certificates:
    """Reads the files of `options`. `require_client`: callers without a certificate are refused."""

    def __init__(self, options: Tls) -> None:
        self.require_client = options.require_client_cert
        self._paths = (options.cert, options.key, options.client_ca)
        if self.require_client and options.client_ca is None:
            raise ConfigError("tls.require_client_cert needs tls.client_ca")
        self._current = self._load()

    def read(self) -> Pem:
        """Return what the files had when they were last good."""
        return self._current

    def has_changed(self) -> bool:
        """Read the files again; whether they differ. Files that cannot be read change nothing."""
        try:
            found = self._load()
        except ConfigError as error:
            log.warning("the certificates of gRPC stay as they were: %s", error)
            return False
        changed, self._current = found != self._current, found
        return changed

    def _load(self) -> Pem:
        cert, key, client_ca = self._paths
        ca = None if client_ca is None else _bytes_of("client_ca", client_ca)
        return _bytes_of("cert", cert), _bytes_of("key", key), ca


def _bytes_of(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{option}: {path} cannot be read: {error.strerror}") from None
