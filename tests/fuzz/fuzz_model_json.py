"""Any bytes are a model's metadata, or a whole model file, or a ModelError.

python -m tests.fuzz.fuzz_model_json -max_total_time=60
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import atheris

with atheris.instrument_imports(include=["edge_runtime"]):
    from edge_runtime.decision.ood import OodDetector
    from edge_runtime.decision.view import View
    from edge_runtime.errors import ModelError
    from edge_runtime.model.file_format import pack_model, parse_model, split_tflite
    from edge_runtime.model.load import read_model
    from edge_runtime.model.metadata import ModelInfo

from tests.fuzz.common import fuzz

GRAPHS = {"tflite": b"\x1c\0\0\0TFL3" + bytes(64), "onnx": b"\x08\x08\x12\x04test"}
MOST = 8000  # bytes


def read_metadata(data: bytes) -> None:
    """The bytes as `model.json`, as a model file, and as one whose digest was set right."""
    with suppress(ModelError):
        info = ModelInfo.from_json(data)
        assert info.scheme is not None
        if info.ood is not None:
            OodDetector.from_json(info.ood)
        if info.view is not None:
            View.from_json(info.view)
        assert ModelInfo.from_json(info.to_json()).labels == info.labels
    for content in (data, data + hashlib.sha256(data).hexdigest().encode("ascii")):
        with suppress(ModelError):
            parse_model(content)
    with suppress(ModelError):
        split_tflite(data)


def corpus() -> list[bytes]:
    """The bundled model's metadata without its large part, and small model files of it."""
    info = replace(read_model().info, ood=None, data={}, metrics=())
    small = {"method": "distance-and-turn", "features": 1, "threshold": 1.0, "mean": "AAAAAA=="}
    checked = replace(info, ood=small)
    head = {
        "labels": ["T1", "T2"],
        "validated": [],
        "weights": "AAAAAAAAAAA=",
        "bias": "AAAAAAAAAAA=",
    }
    view = {"method": "linear-softmax", "features": 1, "plane": None, "sequence": head}
    seen = replace(info, view=view)
    files = [pack_model(graph, info, kind) for kind, graph in GRAPHS.items()]
    texts = [i.to_json().encode("utf-8") for i in (info, checked, seen)]
    short = [json.dumps(json.loads(text), separators=(",", ":")).encode() for text in texts]
    unsigned = [data[:-64] for data in files]
    return [*texts, *short, *files, *unsigned]


if __name__ == "__main__":
    fuzz(read_metadata, corpus(), MOST)
