"""The processor of this machine, as far as speed depends on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

PROC = Path("/proc")

# Instructions that an interpreter's kernels are chosen by, as /proc/cpuinfo spells them.
FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"),
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2"),
)


class Processor(NamedTuple):
    """What the system tells of it.

    Attributes:
        name: its model.
        flags: those of FEATURES that it has; None where the system names no features at all.
        cores: None where the system does not tell.
        system: name and architecture, as `Linux x86_64`.
    """

    name: str
    flags: list[str] | None
    cores: int | None
    system: str


def this_processor() -> Processor:
    """The processor that runs this. On Linux it is asked of /proc/cpuinfo, of which neither serial
    numbers nor anything else is kept."""
    name, flags = "", None
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = value.split()
    return Processor(
        name or platform.processor() or platform.machine(),
        None if flags is None else [flag for flag in FEATURES if flag in flags],
        os.cpu_count(),
        f"{platform.system()} {platform.machine()}",
    )


def features_in_words(machine: dict[str, Any]) -> str:
    """The features of the processor in a result of today or of before they were recorded.

    Args:
        machine: `flags` as in `Processor`, or nothing.
    """
    flags = machine.get("flags")
    if flags is None:
        return "features not recorded"
    return ", ".join(flags) or "none of the features that matter"


def machine_digest(interpreter: str, version: str) -> str:
    """A digest of what decides which model file is fastest here: the processor, its features and
    cores, the system, and an interpreter with its version. It names nobody: two machines of one
    kind have the same.

    Returns:
        SHA-256, hexadecimal.
    """
    text = json.dumps([*this_processor(), interpreter, version])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _cpuinfo() -> str:
    """The text of /proc/cpuinfo, empty where there is none."""
    try:
        return (PROC / "cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""
