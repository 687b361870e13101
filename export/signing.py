"""Signing a file; `edge_runtime.model.signature` tells what a signature is, and checks it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.errors import UsageError
from edge_runtime.files import replacing
from edge_runtime.model.signature import CURVES, SUFFIX, signature_path, signing_package


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
    config = check_key(private_key)
    target = signature_path(path)
    with replacing(target) as part:
        config.sign(path.resolve(), part)
    return target


def check_key(private_key: Path) -> Any:
    """What signs with a key.

    Raises:
        UsageError: the package is missing, or the key cannot be used.
    """
    signing, _ = signing_package()
    _check_readable(private_key, "--sign")
    try:
        return signing.Config().use_elliptic_key_signer(private_key=private_key)
    except Exception:  # what the key's own kind leads to, AttributeError for RSA
        raise UsageError(
            f"{private_key.name} is no private key that can sign: it must be of {CURVES} without "
            "a passphrase: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        ) from None


@contextmanager
def no_stale_signature(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """In a folder whose files are written anew, each signature is of the file beside it: one of a
    former file is removed at the end.

    Args:
        tell: called with the name of each that was removed.
    """
    before = _signed(folder)
    try:
        yield
    finally:
        now = _signed(folder)
        for signature, (of, content) in before.items():
            if signature in now and now[signature][1] == content and now[signature][0] != of:
                signature.unlink()
                tell(signature.name)


def _signed(folder: Path) -> dict[Path, tuple[str, bytes]]:
    """Signature -> the digest of the file beside it, and its content."""
    files = {path: path.with_suffix("") for path in sorted(folder.glob(f"*{SUFFIX}"))}
    return {
        signature: (hashlib.sha256(file.read_bytes()).hexdigest(), signature.read_bytes())
        for signature, file in files.items()
        if file.is_file() and signature.is_file()
    }


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
