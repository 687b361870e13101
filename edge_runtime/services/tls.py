"""TLS of DICOM connections, as PS3.15 B.9 (BCP 195) asks for: 1.2 or newer."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_runtime.errors import UsageError


def for_listening(certificate: Path, key: Path, authorities: Path | None) -> ssl.SSLContext:
    """How to speak TLS with whoever connects.

    Args:
        certificate, key: PEM files of this side.
        authorities: PEM file of who must have signed the peer's certificate; None asks for none.

    Raises:
        UsageError: a file cannot be used.
    """
    return _loaded(ssl.PROTOCOL_TLS_SERVER, certificate, key, authorities)


def for_sending(authorities: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """How to speak TLS with an archive, whose certificate must be for its host's name.

    Args:
        authorities: PEM file of who must have signed it.
        certificate, key: PEM files of this side, where the archive asks for them.

    Raises:
        UsageError: a file cannot be used.
    """
    return _loaded(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authorities)


def _loaded(
    side: int, certificate: Path | None, key: Path | None, authorities: Path | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key, password="")
        if authorities is not None:
            context.load_verify_locations(authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (certificate, key, authorities) if path)
        reason = error.strerror
        if isinstance(error, ssl.SSLError):
            reason = "no PEM of a certificate and its key, without a password"
        raise UsageError(f"no TLS with {files}: {reason}") from None
    return context
