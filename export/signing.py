"""Signing a file; `edge_runtime.model.signature` tells what a signature is, and checks it."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import UsageError
from edge_runtime.files import replacing
from edge_runtime.model.signature import CURVES, signature_path, signing_package


def sign_file(path: Path, private_key: Path) -> Path:
    """Sign a file and write the signature beside it, whole or not at all.

    Args:
        path: the model file.
        private_key: PEM without a passphrase, P-256, P-384 or P-521.

    Returns:
        The signature's path, `<file>.sig`.

    Raises:
        UsageError: the package is missing, or the key cannot be used. OSError: not writable.
    """
    signing, _ = signing_package()
    _check_readable(private_key, "--sign")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except Exception:  # what the key's own kind leads to, AttributeError for RSA
        raise UsageError(
            f"{private_key.name} is no private key that can sign: it must be of {CURVES} without "
            "a passphrase: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        ) from None
    target = signature_path(path)
    with replacing(target) as part:
        config.sign(path.resolve(), part)
    return target


def _check_readable(path: Path, option: str) -> None:
    """Open a file that an option names.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path.name}: {error.strerror}") from None
