"""Detached signatures: who made a file, where a digest only tells that it is whole.

The package `model-signing` writes and checks them, with a key pair on an elliptic curve and
without a network. A signature is a Sigstore bundle beside the file, `<file>.sig`; the package's
own command reads it too: `model_signing verify key FILE --signature FILE.sig --public_key PEM`.
A key is made with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`, its public half
with `openssl ec -in key.pem -pubout -out key.pub.pem`. `export.signing` signs.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from edge_runtime.errors import ModelError, UsageError

SUFFIX = ".sig"
MAX_SIGNATURE_BYTES = 1 << 20
CURVES = "an elliptic curve (P-256, P-384 or P-521), as PEM"


def signature_path(path: Path) -> Path:
    """Where a file's signature is."""
    return path.with_name(path.name + SUFFIX)


def check_signature(path: Path, signature: Path, public_key: Path) -> None:
    """Check that the owner of a key has signed exactly these bytes.

    The file's name does not matter, nor where it lies.

    Args:
        signature: from `export.signing.sign_file`.
        public_key: PEM.

    Raises:
        ModelError: the signature is not a signature, is by another key or of another file.
        UsageError: the package is missing, or a file cannot be read.
    """
    _, verifying = signing_package()
    check_readable(public_key, "--public-key")
    check_readable(signature, "--signature")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception:
        raise UsageError(f"{public_key.name} is no public key of {CURVES}") from None
    try:
        if signature.stat().st_size > MAX_SIGNATURE_BYTES:
            raise ValueError("larger than any signature")
        with redirect_stdout(io.StringIO()):  # it prints warnings among the answers
            config.verify(path.resolve(), signature)
    except Exception as error:  # what a wrong signature leads to depends on what is wrong
        raise ModelError(
            f"{path.name} does not have a valid signature in {signature.name} by "
            f"{public_key.name}: {_reason(error)}; do not use it"
        ) from None


def key_digest(public_key: Path) -> str:
    """Name of a public key: SHA-256 of its PEM as `model-signing` writes it, hexadecimal."""
    signing_package()
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_public_key(public_key.read_bytes())
    pem = key.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def signing_package() -> tuple[Any, Any]:
    """The modules that sign and that check.

    Raises:
        UsageError: the package is missing.
    """
    try:
        from model_signing import signing, verifying
    except ModuleNotFoundError as error:
        raise UsageError(
            f"signatures need a package that is missing ({error.name}): "
            "pip install 'btc-edge[signing]'"
        ) from None
    return signing, verifying


def check_readable(path: Path, option: str) -> None:
    """Open a file that an option names.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path.name}: {error.strerror}") from None


def _reason(error: Exception) -> str:
    text = str(error)
    if "Key mismatch" in text:
        return "it was made with another key"
    if "Signature mismatch" in text:
        return "the file is not the one that was signed"
    if type(error).__name__ == "InvalidSignature":
        return "the key did not sign it"
    return "not a signature that can be read"
