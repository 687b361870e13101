"""Reading a data set takes what one large file may take, however many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.imaging.limits import MIB
from trainer.data.reading import MEMORY, PER_PIXEL

if not Path("/proc/self/clear_refs").exists():
    pytest.skip("no /proc to measure memory by", allow_module_level=True)

MANY, SIZE = 8, 40 * MIB  # more than MEMORY together
WIDE = 5600  # pixels a side of which decoding takes most of what it may
SLACK = 24 * MIB  # the interpreter, the allocator; unpacking holds a piece twice

# In a process of its own, in which freed memory goes back at once.
MEASURE = """
import json, sys
from trainer.data import reading
from trainer.data.archive import open_archive
from trainer.data.layout import arrange

def memory(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if key in line) * 1024

reading.workers = lambda: 4
def read(place):
    archive = open_archive(place)
    found = reading.read_pictures(archive, arrange(archive)[0], lambda picture: picture.path)
    return found.kept, found.problems
read(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
kept, problems = read(sys.argv[2])
print(json.dumps([len(kept), problems, memory("VmHWM") - before]))
"""


def padded(encoded: bytes) -> bytes:
    """A JPEG with zeros behind its end."""
    return encoded + bytes(SIZE - len(encoded))


@pytest.mark.parametrize("kind", ["folder", "zip", "wide"])
def test_memory_is_bounded_by_bytes_not_by_files(kind: str, tmp_path: Path) -> None:
    warm, place = tmp_path / "warm/glioma", tmp_path / "data/glioma"
    warm.mkdir(parents=True)
    place.mkdir(parents=True)
    gray = np.zeros((64, 64), np.uint8)
    encoded = cv2.imencode(".jpg", gray)[1].tobytes()
    (warm / "1.jpg").write_bytes(encoded)
    if kind == "wide":
        encoded = cv2.imencode(".png", np.zeros((WIDE, WIDE), np.uint8))[1].tobytes()
    for i in range(MANY):
        path = place / f"{i}.{'png' if kind == 'wide' else 'jpg'}"
        path.write_bytes(encoded)
        if kind == "folder":
            with path.open("r+b") as stream:
                stream.truncate(SIZE)  # takes no room on the disk
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for i in range(MANY):
                archive.writestr(f"glioma/{i}.jpg", padded(encoded))
    data = tmp_path / ("data.zip" if kind == "zip" else "data")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "warm"), str(data)],
        capture_output=True, text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept, problems, taken = json.loads(done.stdout)
    most = max(MEMORY, PER_PIXEL * WIDE**2 if kind == "wide" else 0)
    assert (kept, problems) == (MANY, [])
    assert taken <= most + SLACK
    assert taken > (SIZE if kind != "wide" else WIDE * WIDE), "else nothing was measured"
