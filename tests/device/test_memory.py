"""What decoding takes is never more than the header's estimate, on which its refusal rests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if not Path("/proc/self/clear_refs").exists():
    pytest.skip("no /proc to measure memory by", allow_module_level=True)
pytest.importorskip("tifffile", reason="tifffile writes some of the files")
pytest.importorskip("PIL", reason="Pillow writes some of the files")

SLACK = 2 << 20  # bytes: what the interpreter and the allocator take meanwhile

# In a process of its own, in which freed memory goes back at once: each kind is measured alone.
MEASURE = """
import gc, io, json
import cv2, numpy as np, tifffile
from PIL import Image
from edge_runtime.imaging.decode import decode, decode_memory, read_header
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.preprocess import Preprocess, preprocess

HEIGHT, WIDTH = 1100, 1117  # odd rows of bytes
gray = cv2.blur(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8), (9, 9))
rgb = np.dstack([gray, gray // 2, 255 - gray])
exif = Image.Exif()
exif[274] = 6

def pillow(array, suffix, mode=None, **options):
    out, image = io.BytesIO(), Image.fromarray(array)
    (image.convert(mode) if mode else image).save(out, suffix, **options)
    return out.getvalue()

def tiff(array, **options):
    out = io.BytesIO()
    kind = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(out, array, **({"photometric": kind, "byteorder": ">"} | options))
    return out.getvalue()

def opencv(suffix, array, *options):
    return cv2.imencode(suffix, array, list(options))[1].tobytes()

deep, quick = rgb.astype(np.uint16) * 250, (cv2.IMWRITE_PNG_COMPRESSION, 1)
makers = {
    "jpeg": lambda: pillow(gray, "JPEG"),
    "jpeg rgb turned": lambda: pillow(rgb, "JPEG", exif=exif),
    "jpeg cmyk": lambda: pillow(rgb, "JPEG", "CMYK"),
    "jpeg progressive": lambda: pillow(rgb, "JPEG", progressive=True),
    "jpeg progressive, full": lambda: pillow(rgb, "JPEG", progressive=True, subsampling=0,
                                             exif=exif),
    "png": lambda: opencv(".png", gray, *quick),
    "png 16": lambda: opencv(".png", deep[..., 0], *quick),
    "png rgba 16": lambda: opencv(".png", np.dstack([deep, deep[..., 0]]), *quick),
    "png more": lambda: pillow(rgb, "PNG", exif=exif, dpi=(9, 9), compress_level=1),
    "png palette": lambda: pillow(gray, "PNG", "P", compress_level=1),
    "bmp": lambda: opencv(".bmp", rgb),
    "webp": lambda: opencv(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 50),
    "webp lossless": lambda: pillow(np.dstack([rgb, gray]), "WEBP", lossless=True, method=0),
    "webp turned": lambda: pillow(rgb, "WEBP", exif=b"Exif\\0\\0" + exif.tobytes(), method=0),
    "gif": lambda: pillow(gray, "GIF", transparency=3),
}
for name, array in {
    "u1": gray, "odd": gray[:-1], "u2": deep[..., 0], "f4": gray / np.float32(7), "f8": gray / 7,
    "rgb 16": deep, "rgb f8": rgb / 7,
}.items():
    for how, rows in ((None, 5000), ("lzw", 5000), ("deflate", 5000), ("packbits", 5000),
                      ("lzw", 8)):
        makers[f"tiff {name} {how} {rows}"] = lambda a=array, h=how, r=rows: tiff(
            a, compression=h, rowsperstrip=r, predictor=h == "deflate" and a is not gray)
makers["tiff tiles"] = lambda: tiff(deep, tile=(256, 256), compression="lzw")
makers["tiff turned"] = lambda: tiff(gray, extratags=[(274, 3, 1, 6, True)])
makers["tiff jpeg"] = lambda: tiff(rgb, compression="jpeg", rowsperstrip=5000, byteorder="<")
makers["tiff planes"] = lambda: tiff(np.moveaxis(deep, 2, 0).copy(), planarconfig="separate",
                                     compression="deflate", rowsperstrip=5000)

def memory(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if key in line) * 1024

def run(data):
    preprocess(decode(data, ImageLimits(max_memory=1 << 40)), Preprocess())

for make in (makers["png 16"], makers["tiff u2 lzw 8"]):
    run(make())
for name, make in makers.items():
    data = make()
    estimate = decode_memory(read_header(data))
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    run(data)
    print(json.dumps([name, estimate, memory("VmHWM") - before]))
"""


def test_the_estimate_is_an_upper_bound() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        capture_output=True, text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
                          "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 15 + 7 * 5 + 4
    for name, estimate, taken in rows:
        assert taken <= estimate + SLACK, name
        assert taken > 1100 * 1117, name  # else nothing was measured
