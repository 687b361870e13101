"""Everything here runs without TensorFlow; no picture lies in the repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import pack_model
from edge_runtime.model.load import read_model


def pack(path: Path, **changes: Any) -> Path:
    """The bundled model under other metadata; rules for other runtimes go with what they fit."""
    file = read_model()
    info = replace(file.info, **{"fitted_with": None, "rules": None, **changes})
    path.write_bytes(pack_model(file.graph, info, "tflite"))
    return path


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


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen drawn slices, four of which lie in the folder of a label that no model predicts."""
    folder = tmp_path_factory.mktemp("labelled")
    file = read_model()
    graph, labels = open_graph(file), file.info.labels
    for i in range(16):
        data = encode(draw_slice(i))
        predicted = int(graph.run(preprocess(decode(data), file.info.preprocess)).argmax())
        place = folder / labels[(predicted + (2 if i % 4 == 0 else 0)) % len(labels)]
        place.mkdir(exist_ok=True)
        (place / f"{i:02d}.jpg").write_bytes(data)
    return folder
