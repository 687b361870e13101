"""Classify brain MRI slices on a device, without TensorFlow.

    from edge_runtime import Classifier

    prediction = Classifier().classify("slice.jpg")

Research use only; not for diagnosis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
    from edge_runtime.decision.prediction import Prediction
    from edge_runtime.errors import BtcError, InputError, ModelError

__all__ = ["BtcError", "Classifier", "InputError", "ModelError", "Prediction", "__version__"]

_HOMES = {
    "Classifier": "edge_runtime.classifier",
    "Prediction": "edge_runtime.decision.prediction",
    "BtcError": "edge_runtime.errors",
    "InputError": "edge_runtime.errors",
    "ModelError": "edge_runtime.errors",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `--help` loads neither numpy nor OpenCV."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
