"""Everything here runs without TensorFlow; no picture lies in the repository."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest


def draw_slice(seed: int = 0, side: int = 200) -> np.ndarray:
    """A head-like picture (uint8, side×side): bright ring, textured inside, a bright mass."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side), np.float32)
    centre = (side // 2, side // 2)
    cv2.ellipse(picture, centre, (int(side * 0.35), int(side * 0.42)), 0, 0, 360, 200, -1)
    cv2.ellipse(picture, centre, (int(side * 0.31), int(side * 0.38)), 0, 0, 360, 90, -1)
    place = tuple(int(v) for v in rng.uniform(side * 0.35, side * 0.65, 2))
    cv2.circle(picture, place, int(side * rng.uniform(0.04, 0.09)), 230, -1)
    picture += rng.normal(0, 6, picture.shape)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 1), 0, 255).astype(np.uint8)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def png_bytes(width: int, height: int) -> bytes:
    """A valid black PNG of any size, small on disk."""
    pack = zlib.compressobj(9)
    row = bytes(1 + width)
    body = b"".join([*(pack.compress(row) for _ in range(height)), pack.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encode(picture: np.ndarray, suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


def write_keys(folder: Path) -> Path:
    """Key pairs as PEM: `our` and `other`, and two that do not fit; each also with a passphrase."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    for name, key in (
        ("our", ec.generate_private_key(ec.SECP256R1())),
        ("other", ec.generate_private_key(ec.SECP384R1())),
        ("bitcoin", ec.generate_private_key(ec.SECP256K1())),
        ("rsa", rsa.generate_private_key(65537, 2048)),
    ):
        plain, locked = forms.NoEncryption(), forms.BestAvailableEncryption(b"secret")
        for suffix, lock in (("", plain), ("-locked", locked)):
            pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, lock)
            (folder / f"{name}{suffix}.pem").write_bytes(pem)
        public = key.public_key()
        (folder / f"{name}.pub.pem").write_bytes(
            public.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        )
    return folder


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve drawn slices in several formats, two folders deep."""
    folder = tmp_path_factory.mktemp("slices")
    for i, suffix in enumerate([".jpg", ".png", ".bmp", ".tiff", ".webp", ".jpg"] * 2):
        place = folder / ("glioma" if i % 2 else "notumor")
        place.mkdir(exist_ok=True)
        (place / f"{i:02d}{suffix}").write_bytes(encode(draw_slice(i), suffix))
    return folder
