"""Ways to alter a model file, each decided by a seed alone.

A digest tells of damage, not of who made the file: somebody who alters a graph and signs it anew
makes another model, not an altered one, and no such file is made here.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.hostile.alter import GENERAL, Case, Rng
from benchmarks.hostile.pictures import black_png
from edge_runtime.model.file_format import DIGEST_LENGTH, is_tflite, split_tflite


def strip_digest(data: bytes) -> bytes:
    """A .tflite as it was before its digest: the zip without its comment."""
    return data[: -DIGEST_LENGTH - 2] + b"\0\0"


def _rezip(graph: bytes, members: list[tuple[str, bytes]], comment: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        archive.comment = comment
    return graph + out.getvalue()


def _changed(rng: Rng, text: bytes, labels: list[str]) -> list[tuple[str, bytes]]:
    """The two members of the zip with one thing that matters changed."""
    shape: dict[str, Any] = json.loads(text)
    turned = [*labels[1:], labels[0]]
    kind = int(rng.integers(6))
    if kind == 0:
        shape["labels"], labels = turned, turned
    elif kind == 1:
        labels = turned
    elif kind == 2:
        shape["thresholds"] = dict.fromkeys(labels, 0.0)
    elif kind == 3:
        shape["temperature"] = float(rng.choice([1e-6, 0.1, 10, 1e6]))
    elif kind == 4:
        shape["unfamiliar" if shape["schema"] == 1 else "ood"] = None
    else:
        shape["preprocess"] = {**shape["preprocess"], "crop": "none"}
    lines = "\n".join(labels) + "\n"
    return [("labels.txt", lines.encode()), ("model.json", json.dumps(shape, indent=1).encode())]


def _doubled(rng: Rng, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """A member twice, or thousands of members."""
    if rng.random() < 0.5:
        return [*members, members[int(rng.integers(2))]]
    return [*members, *((f"{i}", b"") for i in range(2 ** int(rng.integers(1, 13))))]


def touch_zip(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The zip behind the graph made anew: other content, doubled, bursting or oddly sized."""
    if not is_tflite(data):
        return GENERAL["block overwritten"](rng, data[-4096:], other)
    graph, text, labels = split_tflite(data)
    digest = data[-DIGEST_LENGTH:]
    comment = (digest, bytes(rng.choice(list(b"0123456789abcdef"), 64).tolist()), b"")[
        int(rng.integers(3))
    ]
    kind = int(rng.integers(5))
    members = [("labels.txt", "\n".join(labels).encode()), ("model.json", text)]
    if kind <= 1:
        return _rezip(graph, _changed(rng, text, labels), comment)
    if kind == 2:
        import warnings

        with warnings.catch_warnings():  # zipfile warns of doubled names
            warnings.simplefilter("ignore")
            return _rezip(graph, _doubled(rng, members), comment)
    if kind == 3:
        size = 2 ** int(rng.integers(20, 28))
        return _rezip(graph, [members[0], ("model.json", bytes(size))], comment)
    out = bytearray(_rezip(graph, members, comment))
    for found in (out.find(b"PK\1\2"), out.rfind(b"PK\1\2"), out.rfind(b"PK\5\6")):
        at = found + 4 * int(rng.integers(2, 10))  # declared sizes, offsets, counts
        value = int(rng.choice([0, 1, 65535, 2**31 - 1, 2**32 - 1]))
        if 0 <= at <= len(out) - 4:
            struct.pack_into("<I", out, at, value)
    return bytes(out)


def drop_digest(rng: Rng, data: bytes, other: bytes) -> bytes:
    """No digest: the zip's comment, the whole zip or part of the comment gone."""
    if not is_tflite(data):
        return data[: -int(rng.integers(1, 4096))]
    choices = (strip_digest(data), split_tflite(data)[0], data[: -int(rng.integers(1, 67))])
    return choices[int(rng.integers(3))]


def another_file(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Something else under the name of a model: nothing, a picture, text, a zip, fields only."""
    start = data[: int(rng.integers(4, 64))]
    choices = (
        *(b"", black_png(64, 64), b"a model\n" * 100, start, b"\0" * 1000, b"PK\5\6" + bytes(18)),
        # An .onnx is read field by field: many tiny ones must not take long.
        *(b"\x08\x01" * 2_000_000, b"\x12\x00" * 2_000_000, b"\x12\xff\xff\xff\xff\x0f"),
    )
    return choices[int(rng.integers(len(choices)))]


MODEL_KINDS: dict[str, Callable[[Rng, bytes, bytes], bytes]] = {
    **GENERAL,
    "zip made anew": touch_zip,
    "digest removed": drop_digest,
    "another file": another_file,
}


def alter_model(seed: int, model: bytes, other: bytes) -> Case:
    """The altered model with this seed.

    Args:
        other: a second file, whose end may be spliced to the model's beginning.
    """
    rng = np.random.default_rng(seed)
    kind = sorted(MODEL_KINDS)[seed % len(MODEL_KINDS)]
    base = "tflite" if is_tflite(model) else "onnx"
    altered = model
    while altered == model:
        altered = MODEL_KINDS[kind](rng, model, other)
    return Case(seed, base, kind, altered)


def alter_unsigned(seed: int, model: bytes) -> Case:
    """The altered model with this seed, its digest taken away before."""
    rng = np.random.default_rng(seed)
    kind = sorted(GENERAL)[seed % len(GENERAL)]
    plain = strip_digest(model)
    altered = plain
    while altered == plain:
        altered = GENERAL[kind](rng, plain, plain)
    return Case(seed, "tflite", f"unsigned, {kind}", altered)
