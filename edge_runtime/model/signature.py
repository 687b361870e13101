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
from tempfile import TemporaryDirectory
from typing import Any

from edge_runtime.errors import InputError, ModelError, UsageError
from edge_runtime.imaging.limits import ImageLimits, read_file

SUFFIX = ".sig"
MAX_SIGNATURE_BYTES = 1 << 20
MAX_KEY_BYTES = 1 << 16
CURVES = "an elliptic curve (P-256, P-384 or P-521), as PEM"


def signature_path(path: Path) -> Path:
    """Where a file's signature is."""
    return path.with_name(path.name + SUFFIX)


def check_signature(data: bytes, signature: Path, public_key: Path) -> str:
    """Check that the owner of a key has signed exactly these bytes.

    Each file is read once, and the package is given copies that nobody else can change: what is
    checked is what was read.

    Args:
        data: the file that was signed; its name does not matter, nor where it lies.
        signature: from `export.signing.sign_file`.
        public_key: PEM.

    Returns:
        Name of the key: SHA-256 of its PEM as `model-signing` writes it, hexadecimal.

    Raises:
        ModelError: the signature cannot be read or is none, is by another key or of other bytes.
        UsageError: the package is missing, or the key cannot be read or is none.
    """
    _, verifying = signing_package()
    try:
        pem = read_file(public_key, ImageLimits(max_bytes=MAX_KEY_BYTES))
    except InputError as error:
        raise UsageError(f"--public-key {public_key.name}: {error}") from None
    try:
        bundle = read_file(signature, ImageLimits(max_bytes=MAX_SIGNATURE_BYTES))
    except InputError as error:
        raise ModelError(f"signature {signature.name}: {error}") from None
    with TemporaryDirectory(prefix="btc-edge-") as folder:  # which only this user may enter
        copies = [Path(folder, name) for name in ("file", "signature", "key")]
        for copy, content in zip(copies, (data, bundle, pem), strict=True):
            copy.write_bytes(content)
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=copies[2])
        except Exception:
            raise UsageError(f"{public_key.name} is no public key of {CURVES}") from None
        try:
            with redirect_stdout(io.StringIO()):  # it prints warnings among the answers
                config.verify(copies[0], copies[1])
        except Exception as error:  # what a wrong signature leads to depends on what is wrong
            raise ModelError(
                f"no valid signature in {signature.name} by {public_key.name}: "
                f"{_reason(error)}; do not use it"
            ) from None
    return _key_digest(pem)


def _key_digest(pem: bytes) -> str:
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_public_key(pem)
    plain = key.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(plain).hexdigest()


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


def _reason(error: Exception) -> str:
    text = str(error)
    if "Key mismatch" in text:
        return "it was made with another key"
    if "Signature mismatch" in text:
        return "the file is not the one that was signed"
    if type(error).__name__ == "InvalidSignature":
        return "the key did not sign it"
    return "not a signature that can be read"
