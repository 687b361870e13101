"""What is known of this machine (what it does not tell is None, never a guess), and whether it was
quiet enough to measure on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.processor import this_processor
from edge_runtime.version import __version__

SYS = Path("/sys")

# When figures are not to be believed, and why:
MAX_SPREAD = 1.5  # p90 / p50 of the graph alone, whose work is the same on every image
MAX_DRIFT = 0.10  # between the quarters of a run: a clock that changed, or a job that came or went
MIN_QUARTER = 10  # the median of fewer queries wanders by itself
MAX_LOAD = 0.5  # processes per core before the start: the benchmark would share a core
MAX_WARMING = 15.0  # K during the run: a device that goes on so will lower its clock


def machine_facts() -> dict[str, Any]:
    """The processor, those of its features that matter, and the versions that do."""
    import cv2

    here = this_processor()
    return {
        "cpu": here.name,
        "flags": here.flags,
        "cores": here.cores,
        "memory_mib": _memory_mib(),
        "governor": _text(SYS / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "system": here.system,
        "kernel": platform.release() or None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "btc-edge": __version__,
    }


def load_average() -> float | None:
    """Processes that ran or waited to run over the last minute, on all cores together."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return None


def temperature() -> float | None:
    """The hottest of the machine's thermal zones, in °C."""
    degrees = []
    for path in sorted((SYS / "class/thermal").glob("thermal_zone*/temp")):
        try:
            degrees.append(int(_text(path)) / 1000)
        except ValueError:
            continue
    # A zone that is switched off answers with 0 or with something near absolute zero.
    return max((d for d in degrees if 0 < d < 150), default=None)


def noise_warnings(
    invoke_ms: Sequence[float],
    load: float | None,
    cores: int | None,
    before: float | None,
    after: float | None,
) -> list[str]:
    """Why the figures may not be believed.

    Args:
        invoke_ms: times of one subject's graph in the order of the run. Not the total: that
            differs from image to image, on a quiet machine too.
        load: load average before the start, over `cores` cores.
        before, after: temperature in °C.
    """
    warnings = []
    middle, high = np.percentile(invoke_ms, [50, 90])
    if high > MAX_SPREAD * middle:
        warnings.append(f"p90 of the graph alone is {high / middle:.1f} times its p50")
    if len(invoke_ms) >= 4 * MIN_QUARTER:
        quarters = [float(np.median(q)) for q in np.array_split(np.asarray(invoke_ms), 4)]
        drift = max(quarters) / min(quarters) - 1
        if drift > MAX_DRIFT:
            warnings.append(f"the graph's median drifted by {100 * drift:.0f} % during the run")
    if load is not None and cores and load / cores > MAX_LOAD:
        warnings.append(f"the load average was {load:.1f} on {cores} cores before the start")
    if before is not None and after is not None and after - before > MAX_WARMING:
        warnings.append(f"it warmed from {before:.0f} to {after:.0f} °C")
    return [f"noisy machine: {warning}" for warning in warnings]


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (AttributeError, ValueError, OSError):
        return None


def _text(path: Path) -> str:
    """The text of a small system file; empty where there is none or it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
