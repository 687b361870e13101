"""The documents' pictures of the pages of `btc-edge serve` and `btc-export --web`: the real ones in
a real browser.

python -m benchmarks.pages docs

Writes serve-desktop.png and serve-phone.png, web-desktop.png and web-phone.png. What they show are
drawn slices, never a patient's; the answers are those of the bundled model, and say nothing.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cv2
import numpy as np

from benchmarks.common.browser import PATIENCE, chromium, open_page, serving
from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import encode
from benchmarks.serve import started
from edge_runtime.commands.click_types import Choice
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError
from edge_runtime.files import write_bytes
from edge_runtime.model.load import read_model
from export.web.site import write_site
from trainer.synthetic.phantoms import SIZE, draw_phantom

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHOWN = (("desktop", (1280, 1120), "light"), ("phone", (375, 1180), "dark"))
PICTURES = (("meningioma", 0), ("glioma", 0), ("glioma", 2))  # phantoms, by class and seed
SLICES, LESION = 16, range(6, 11)  # of the series, and where the drawn mass is
SEED = 6
COLOURS = 256  # of a picture's palette
LARGEST = 150_000  # bytes of a picture in the repository


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


def show_serve(page: Page, address: str, folder: Path, is_phone: bool) -> None:
    """The page of `btc-edge serve` with the answers for the files of `write_slices`."""
    page.goto(address)
    page.set_input_files("#folder", folder / "series")
    page.locator(".card.study").wait_for()
    page.set_input_files("#files", sorted(folder.glob("*.png")))
    page.locator(".card").nth(len(PICTURES)).wait_for()
    page.locator(".card.waiting").first.wait_for(state="detached")
    if not is_phone:
        page.locator(".study .heat").check()


def show_web(page: Page, address: str, folder: Path, is_phone: bool) -> None:
    """The page of `btc-export --web` with the answers for the pictures of `write_slices`."""
    open_page(page, address)
    page.set_input_files("#files", sorted(folder.glob("*.png")))
    page.locator(".card .words").nth(len(PICTURES) - 1).wait_for()
    page.locator(".heat").first.check()


Show = Callable[["Page", str, Path, bool], None]


def photographs(
    browser: Browser, show: Show, address: str, folder: Path
) -> Iterator[tuple[str, bytes]]:
    """PNGs of a page, as `desktop` and `phone`."""
    for name, (width, height), scheme in SHOWN:
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        is_phone = width < 600
        show(page, address, folder, is_phone)
        if is_phone:  # what it is for, not how files are chosen
            page.get_by_role("heading", name="Answers").evaluate("title => title.scrollIntoView()")
        else:
            page.evaluate("scrollTo(0, 0)")
        yield name, page.screenshot()
        context.close()


def with_palette(png: bytes) -> bytes:
    """The same picture in few colours, which takes a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


@contextmanager
def serve_page() -> Iterator[str]:
    with started(0, 1) as (_, port):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def web_page() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        write_site(Path(name), read_model())
        with serving(Path(name)) as address:
            yield address


PAGES = {"serve": (serve_page, show_serve), "web": (web_page, show_web)}


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--page", "pages", type=Choice(list(PAGES)), multiple=True, default=tuple(PAGES))
def main(out: Path, pages: tuple[str, ...]) -> None:
    """Write pictures of the pages to the folder OUT; needs playwright and Chromium."""
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        write_slices(Path(name))
        for which in pages:
            opened, show = PAGES[which]
            with opened() as address:
                for what, png in photographs(browser, show, address, Path(name)):
                    picture = with_palette(png)
                    if len(picture) > LARGEST:
                        raise BtcError(
                            f"the picture of {what} has {len(picture)} bytes: fewer COLOURS"
                        )
                    write_bytes(out / f"{which}-{what}.png", picture)


if __name__ == "__main__":
    run_command(main, "benchmarks.pages", "dev")
