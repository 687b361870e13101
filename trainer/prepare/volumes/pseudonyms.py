"""Names that stand for a patient or a series and cannot be turned back: keyed digests.

HMAC-SHA256 (RFC 2104). A digest without a key would be no secret: a hospital's numbers can all be
tried. The key is the user's: it stands in no output, and who keeps it gets the same pseudonyms for
the same patients again.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from edge_runtime.errors import InputError, UsageError, one_line
from edge_runtime.imaging.limits import ImageLimits, read_file

LEAST, MOST = 16, 4096  # bytes of a key's file
MADE = 32  # bytes of one that is made here
DIGITS = (
    12  # of a pseudonym in a name: two of a million patients share one with a chance of 1 in 500
)


class Pseudonyms:
    """The digests under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, kind: str, *words: str) -> str:
        """Hexadecimal digits for words that together name one thing.

        Args:
            kind: what they name, so that a patient and a series called alike share nothing.
        """
        message = json.dumps([kind, *words])  # words may hold anything, lone surrogates too
        return hmac.new(self._key, message.encode(), "sha256").hexdigest()


def read_key(path: Path) -> tuple[Pseudonyms, list[str]]:
    """The pseudonyms of the key in a file, which is made where there is none, for its owner alone;
    and lines that its owner should read.

    Raises:
        UsageError: it cannot be read or made, or is no key.
    """
    said = []
    try:
        if not path.exists():
            _make(path)
            said.append(
                f"{path}: a new key for pseudonyms; keep it, and secret: only with it do later "
                "deliveries give the same patients the same names"
            )
        key = read_file(path, ImageLimits(max_bytes=MOST)).strip()
        mode = path.stat().st_mode
    except (OSError, InputError) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"the key {path} cannot be used: {why}; name another with --key") from None
    if len(key) < LEAST:
        raise UsageError(f"the key {path} is shorter than {LEAST} bytes; name another with --key")
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        said.append(f"{path}: others than its owner may use this key: chmod 600")
    return Pseudonyms(key), said


def _make(path: Path) -> None:
    """Make a key that is seen whole or not at all, and never in place of another's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = secrets.token_hex(MADE) + "\n"
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        _write(part, key)
        with suppress(FileExistsError):  # made by another command just now
            _link(part, path, key)
    finally:
        part.unlink(missing_ok=True)


def _link(part: Path, path: Path, key: str) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # some file systems have no links
        _write(path, key)


def _write(path: Path, key: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(key)
        stream.flush()
        os.fsync(stream.fileno())
