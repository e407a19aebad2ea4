"""Certificates that can be replaced while connections are open."""

from __future__ import annotations

import ssl
from pathlib import Path

from edgecache.errors import ConfigError

__all__ = ["TlsFiles"]


class TlsFiles:
    """A server context over a certificate chain and its key.

    Handshakes that begin after `reload` use the new files; connections that are open keep what they
    have. Files that do not fit each other are refused, and the old ones stay in use.

    Args:
        certificate: PEM file of the chain, the server's own certificate first.
        key: PEM file of the key; None: it is in the same file.

    Raises:
        ConfigError: They cannot be used.
    """

    def __init__(self, certificate: str | Path, key: str | Path | None = None) -> None:
        self._certificate = str(certificate)
        self._key = None if key is None else str(key)
        self._current = self._load()
        self.reload_count = 0
        # Every handshake is moved to the newest context, so that replacing it is one assignment.
        self.context = self._load()
        self.context.sni_callback = self._choose

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificate cannot be used: {error}",
                path=self._certificate,
                hint="give a PEM chain and the key that belongs to its first certificate",
            ) from error
        return context

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> None:
        connection.context = self._current

    def reload(self) -> None:
        """Read the files again; ConfigError leaves everything as it was. *Cost*: file reads."""
        self._current = self._load()
        self.reload_count += 1
