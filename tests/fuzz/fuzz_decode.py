"""Any bytes give gray slices or an InputError.

python -m tests.fuzz.fuzz_decode -max_total_time=60
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["edge_runtime", "pydicom", "nibabel"]):
    import edge_runtime.imaging.dicom
    import edge_runtime.imaging.nifti  # noqa: F401 - both are imported late by open_slices
    from edge_runtime.errors import InputError
    from edge_runtime.imaging.limits import ImageLimits
    from edge_runtime.imaging.preprocess import Preprocess, preprocess
    from edge_runtime.imaging.readers import slices_of

from benchmarks.hostile.files import MAKERS
from tests.fuzz.common import fuzz

LIMITS = ImageLimits(max_bytes=4 << 20, max_pixels=250_000, max_slices=64)
OPTIONS = Preprocess()
MOST = 48_000  # bytes; the largest file of the corpus has 46,432


def decode(data: bytes) -> None:
    """Read all slices and make each a model's input."""
    try:
        for _, gray in slices_of(data, LIMITS):
            assert gray.ndim == 2
            assert gray.dtype == "uint8"
            assert preprocess(gray, OPTIONS).shape == (128, 128)
    except InputError:
        pass


if __name__ == "__main__":
    fuzz(decode, (make(0) for make in MAKERS.values()), MOST)
