"""How many threads a training computes with.

The last bits of a sum of floats depend on how many threads share it: two trainings of one seed end
in the same weights, bit by bit, where they have the same number of threads on the same kind of
processor. What is said nowhere is as many as the process may use cores.
"""

from __future__ import annotations

import os

import cv2

# Of libraries that are loaded later: OpenMP, the BLAS of NumPy and SciPy, and joblib.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")


def use_threads(count: int) -> None:
    """Have this process compute with so many threads from now on, TensorFlow aside, which is told
    when it is imported (see `import_tensorflow`)."""
    from threadpoolctl import threadpool_limits

    os.environ.update(dict.fromkeys(_VARIABLES, str(count)))
    threadpool_limits(count)  # libraries that are there; nothing takes it back
    cv2.setNumThreads(count)
