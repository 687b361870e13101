"""bom.cdx.json beside exported files: what they are made of, as a CycloneDX ML-BOM (1.6).

A machine-learning model with its card, its files with their digests, the data that it learned from
and the packages it was trained with. The same files give the same bytes: the serial number follows
from their digests, the time is the training's.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edge_runtime
from edge_runtime.files import write_text
from export.card import METRICS, PURPOSE, limits
from trainer.run import CNN, Run, dump_json

NAME = "bom.cdx.json"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MODEL, DATA = "model", "data"  # references inside the document


def _figure(kind: str, value: float, part: str, interval: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": kind, "value": str(value), "slice": part}
    if interval is not None:
        low, high = interval
        entry["confidenceInterval"] = {"lowerBound": str(low), "upperBound": str(high)}
    return entry


def _performance(run: Run, files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    metrics = run.metrics()
    side = f"{metrics['split']} side, protocol {metrics['protocol']}"
    found = [
        _figure(key, metrics[key], side, metrics["interval95"].get(key))
        for key in METRICS
        if metrics.get(key) is not None
    ]
    found += [
        _figure("recall", figures["recall"], f"{side}, {label}", figures["interval95"]["recall"])
        for label, figures in metrics["per_class"].items()
        if figures.get("recall") is not None
    ]
    for entry in files:
        part = f"{entry['n']} held-out slices, {entry['path']}"
        found.append(_figure("agreement with the trained model", entry["agreement"], part, None))
        found.append(_figure("accuracy", entry["accuracy"], part, None))
    return found


def _model_card(run: Run, files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    size, network = run.preprocess.size, run.kind == CNN
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "architectureFamily": "convolutional neural network" if network else run.kind,
            "modelArchitecture": str(run.settings.get("network") or run.kind),
            "datasets": [{"ref": DATA}],
            "inputs": [{"format": f"gray slice of {size} × {size} pixels, 0-255"}],
            "outputs": [{"format": "a logit for each of " + ", ".join(run.labels)}],
        },
        "quantitativeAnalysis": {"performanceMetrics": _performance(run, files)},
        "considerations": {
            "useCases": [" ".join(PURPOSE.split())],
            "technicalLimitations": limits(),
        },
    }


def _licences(text: str | None) -> dict[str, Any]:
    return {"licenses": [{"license": {"name": text}}]} if text else {}


def _file(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{entry['path']}",
        "name": entry["path"],
        "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
        "properties": [
            {"name": f"btc-edge:{key}", "value": str(entry[key])}
            for key in ("format", "scheme", "bytes")
        ],
    }


def _data(run: Run) -> dict[str, Any]:
    data = run.settings["data"]
    urls = [word.strip() for word in (data.get("url") or "").split(";")]
    places = [
        {"type": "distribution", "url": url} for url in urls if url.startswith(("http:", "https:"))
    ]
    title = data.get("title") or "brain MRI slices"
    return {
        "type": "data",
        "bom-ref": DATA,
        "name": title,
        **_licences(data.get("license")),
        "data": [{"type": "dataset", "name": title}],
        **({"externalReferences": places} if places else {}),
        "properties": [
            {"name": f"btc-edge:{key}", "value": str(data[key])}
            for key in ("sha256", "images", "groups")
            if data.get(key) is not None
        ],
    }


def _packages(run: Run) -> list[dict[str, Any]]:
    """The packages of the training; Python is none."""
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
        }
        for name, version in (run.settings.get("versions") or {}).items()
        if version and name != "python"
    ]


def ml_bom(
    run: Run, files: Sequence[dict[str, Any]], name: str, version: str, licence: str | None
) -> dict[str, Any]:
    """The document.

    Args:
        files: entries of export.json that passed, one or more.
        name, version, licence: the model's, as its files state them.
    """
    packages, parts = _packages(run), [_file(entry) for entry in files]
    digest = hashlib.sha256("".join(entry["sha256"] for entry in files).encode()).hexdigest()
    refs = sorted(part["bom-ref"] for part in (*parts, *packages))
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": run.settings["created"],
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "btc-edge",
                        "version": edge_runtime.__version__,
                    }
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": MODEL,
                "name": name,
                "version": version,
                **_licences(licence),
                "modelCard": _model_card(run, files),
            },
        },
        "components": [*parts, _data(run), *packages],
        "dependencies": [{"ref": MODEL, "dependsOn": [DATA, *refs]}],
    }


def write_bom(folder: Path, content: dict[str, Any]) -> Path:
    """Write bom.cdx.json, whole or not at all."""
    path = folder / NAME
    write_text(path, dump_json(content))
    return path
