"""What is known of this machine; what it does not tell is None, never a guess."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

CPU_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "avxvnni", "neon", "asimd", "asimddp", "i8mm")
PROC, SYS = Path("/proc"), Path("/sys")


def machine_facts() -> dict[str, Any]:
    """The processor, its instructions for small integers, and the versions that matter."""
    import cv2

    name, flags = platform.processor() or platform.machine(), ""
    for line in _text(PROC / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = value
    return {
        "cpu": name,
        "flags": [flag for flag in CPU_FLAGS if flag in flags.split()],
        "cores": os.cpu_count(),
        "memory_mib": _memory_mib(),
        "governor": _text(SYS / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release() or None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "btc-edge": _own_version(),
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


def _own_version() -> str | None:
    try:
        return version("btc-edge")
    except PackageNotFoundError:  # run from its source, not installed
        return None


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
