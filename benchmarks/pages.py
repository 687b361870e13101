"""The documents' pictures of the page of `btc-edge serve`: the real server in a real browser.

python -m benchmarks.pages docs

Writes serve-desktop.png and serve-phone.png. What they show are drawn slices, never a patient's;
the answers are those of the bundled model, and say nothing.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cv2
import numpy as np

from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import encode
from benchmarks.serve import started
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError, UsageError
from edge_runtime.files import write_bytes
from trainer.synthetic.phantoms import SIZE, draw_phantom

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHOWN = (("desktop", (1280, 1120), "light"), ("phone", (375, 1180), "dark"))
PICTURES = (("meningioma", 0), ("glioma", 0), ("glioma", 2))  # phantoms, by class and seed
SLICES, LESION = 16, range(6, 11)  # of the series, and where the drawn mass is
SEED = 6
COLOURS = 256  # of a picture's palette
LARGEST = 150_000  # bytes of a picture in the repository
PATIENCE = 120_000  # ms


def draw_series() -> Iterator[tuple[str, bytes]]:
    """DICOM files of a drawn head that is narrow at its ends and holds a mass in the middle."""
    for number in range(SLICES):
        label = "meningioma" if number in LESION else "notumor"
        whole = draw_phantom(label, np.random.default_rng(SEED))
        width = np.sin(np.pi * (number + 2) / (SLICES + 3)) ** 0.5
        turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), 0, float(width))
        picture = np.asarray(cv2.warpAffine(whole, turn, (SIZE, SIZE)), np.uint8)
        yield f"IM{number:04d}.dcm", dicom_bytes(
            picture, Modality="MR", StudyInstanceUID="2.25.1", SeriesInstanceUID="2.25.2",
            SOPInstanceUID=f"2.25.3.{number}", ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[-80, -80, 4 * number], PixelSpacing=[1, 1],
        )  # fmt: skip


def write_slices(folder: Path) -> None:
    """Drawn pictures, and a folder `series` beside them."""
    (folder / "series").mkdir()
    for name, data in draw_series():
        (folder / "series" / name).write_bytes(data)
    for number, (label, seed) in enumerate(PICTURES, 1):
        drawn = draw_phantom(label, np.random.default_rng(seed))
        (folder / f"slice-{number}.png").write_bytes(encode(drawn, ".png"))


def photograph(
    browser: Browser, port: int, folder: Path, size: tuple[int, int], scheme: str
) -> bytes:
    """A PNG of the page with the answers for the files of `write_slices`."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.set_input_files("#folder", folder / "series")
    page.locator(".card.study").wait_for()
    page.set_input_files("#files", sorted(folder.glob("*.png")))
    page.locator(".card").nth(len(PICTURES)).wait_for()
    page.locator(".card.waiting").first.wait_for(state="detached")
    if size[0] < 600:  # what it is for, not how files are chosen
        page.get_by_role("heading", name="Answers").evaluate("title => title.scrollIntoView()")
    else:
        page.locator(".study .heat").check()
        page.evaluate("scrollTo(0, 0)")
    taken = page.screenshot()
    context.close()
    return taken


def with_palette(png: bytes) -> bytes:
    """The same picture in few colours, which takes a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Write pictures of the page to the folder OUT; needs playwright and Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("needs the package playwright: pip install playwright") from None
    chromium = shutil.which("chromium")
    if chromium is None:
        raise UsageError("needs Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as name,
        started(0, 1) as (_, port),
        sync_playwright() as driver,
    ):
        write_slices(Path(name))
        words = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium, args=words)
        for what, size, scheme in SHOWN:
            picture = with_palette(photograph(browser, port, Path(name), size, scheme))
            if len(picture) > LARGEST:
                raise BtcError(f"the picture of {what} has {len(picture)} bytes: fewer COLOURS")
            write_bytes(out / f"serve-{what}.png", picture)
        browser.close()


if __name__ == "__main__":
    run_command(main, "benchmarks.pages", "dev")
