"""The pages that `btc-export --web` writes, in a real browser (Debian's Chromium)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("btc_edge_web", reason="no btc-edge-web: pip install ./web")
pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from benchmarks.common.browser import answer_in_page, chromium, open_page, serving
from benchmarks.hostile.pictures import black_png, encode
from benchmarks.web import compare
from edge_runtime.classifier import Classifier
from edge_runtime.errors import InputError
from edge_runtime.model.load import read_model
from export.web.site import write_single, write_site
from tests.documents import ROOT
from trainer.synthetic.phantoms import CLASSES, draw_phantom

FOUND = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="no Chromium here: apt-get install chromium"),
]
DESKTOP, PHONE = (1280, 900), (375, 720)
ROUNDED = 1e-12  # of a probability
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, and beside it the one file."""
    out = tmp_path_factory.mktemp("pages")
    write_site(out / "web", read_model())
    write_single(out / "web.html", read_model())
    return out / "web"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serving(site) as served:
        yield served


Open = Callable[..., "Page"]


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """Opens a page. At the end: nothing was asked of another origin, and the console, which tells
    violations of the Content-Security-Policy too, has no error but the expected ones."""
    contexts, wrong, expected, allowed = [], [], [], ["data:", "blob:"]

    def visited(
        size: tuple[int, int] = DESKTOP, at: str = address, errors: tuple[str, ...] = ()
    ) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        context.set_default_timeout(60_000)  # a busy machine
        allowed.append(at)
        expected.extend(errors)
        page = context.new_page()
        page.on(
            "request",
            lambda request: request.url.startswith(tuple(allowed)) or wrong.append(request.url),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        open_page(page, at)
        return page

    yield visited
    for context in contexts:
        context.close()
    assert [line for line in wrong if not any(part in line for part in expected)] == []


def drawn() -> dict[str, bytes]:
    """Phantoms as files. The bundled model's answers for them are nobody's diagnosis."""
    pictures = {
        f"{label}-{seed}": draw_phantom(label, np.random.default_rng(seed))
        for label in CLASSES
        for seed in range(3)
    }
    found = {f"{name}.png": encode(picture, ".png") for name, picture in pictures.items()}
    found |= {f"{name}.jpg": encode(picture[7:, :-20]) for name, picture in pictures.items()}
    noise = np.random.default_rng(0).integers(0, 4096, (300, 200)).astype(np.uint16)
    return found | {"deep.png": encode(noise, ".png"), HOSTILE: found["glioma-0.png"]}


def assert_equal(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal answers: to the letter, and probabilities to the last digits of a double."""
    assert list(given) == list(wanted)
    numbers = ("confidence", "probabilities")
    assert {k: v for k, v in given.items() if k not in numbers} == {
        k: v for k, v in wanted.items() if k not in numbers
    }
    assert given["confidence"] == pytest.approx(wanted["confidence"], abs=ROUNDED)
    assert given["probabilities"] == pytest.approx(wanted["probabilities"], abs=ROUNDED)


def assert_answers_as_the_command(page: Page, model: Path) -> None:
    classifier, bundled = Classifier(model), Classifier()
    seen = set()
    for name, data in drawn().items():
        given, _ = answer_in_page(page, name, data)
        seen.add(given["status"])
        wanted = classifier.classify(data).to_json() | {"input": name}
        assert_equal(given, wanted)
        assert_equal(given, bundled.classify(data).to_json() | {
            "input": name, "model": given["model"]
        })  # fmt: skip
    assert len(seen) > 1


def test_answers_are_the_command_s(visit: Open, site: Path) -> None:
    assert_answers_as_the_command(visit(), site / "model.tflite")


def test_one_file_answers_from_a_disk(visit: Open, site: Path) -> None:
    page = visit(at=site.with_name("web.html").as_uri())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    assert_answers_as_the_command(page, site / "model.tflite")
    page.set_input_files("#files", [as_file(site, "one.png")])
    page.locator(".card img").wait_for()
    assert [url for url in asked if not url.startswith("data:")] == []


def as_file(site: Path, name: str) -> Path:
    path = site.parent / name
    path.write_bytes(encode(draw_phantom("glioma", np.random.default_rng(0)), ".png"))
    return path


def test_unusable_pictures_are_refused_in_the_command_s_words(visit: Open) -> None:
    page, classifier = visit(), Classifier()
    whole = drawn()["glioma-0.png"]
    bad = {
        "empty": b"", "damaged.png": whole[:900], "damaged.jpg": encode(np.zeros((50, 50)))[:300],
        "huge.png": black_png(60_000, 2), "large.png": black_png(9000, 9000),
        "deep.png": black_png(7000, 7000, 16), "narrow.png": black_png(5000, 2),
    }  # fmt: skip
    for name, data in bad.items():
        given, _ = answer_in_page(page, name, data)
        with pytest.raises(InputError) as refused:
            classifier.classify(data)
        assert (given["status"], given["error"]) == ("error", str(refused.value)), name
        assert given["probabilities"] is None
    dicom = bytes(128) + b"DICM" + bytes(100)
    given, _ = answer_in_page(page, "IM1", dicom)
    assert given["error"] == "not supported here: a DICOM file; btc-edge and Classifier read it"
    assert page.get_by_text("DICOM files, volumes and other kinds").is_visible()


def test_pictures_are_chosen_shown_saved_and_cleared(
    visit: Open, site: Path, tmp_path: Path
) -> None:
    pictures = drawn()
    for name in ("glioma-0.png", "meningioma-1.jpg", HOSTILE):
        (tmp_path / name).write_bytes(pictures[name])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    files = sorted(tmp_path.iterdir())
    page = visit()
    page.set_input_files("#files", files)
    page.locator(".card .words").nth(3).wait_for()
    assert page.locator(".card .title").all_text_contents() == [file.name for file in files]
    card = page.locator(".card", has_text="glioma-0.png")
    before = card.locator("img").get_attribute("src")
    assert card.locator("img").evaluate("image => image.naturalWidth") > 0
    card.get_by_label("Show the heatmap").check()
    after = card.locator("img").get_attribute("src")
    assert before != after
    assert after is not None
    assert after.startswith("data:image/png;base64,")
    assert (
        page.locator(".card", has_text="bad.png").get_by_text("truncated or damaged").is_visible()
    )
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    saved = json.loads(Path(download.value.path()).read_text("utf-8"))
    classifier = Classifier(site / "model.tflite")
    for file, answer in zip(files, saved, strict=True):
        if answer["status"] != "error":
            assert_equal(
                answer, classifier.classify(file.read_bytes()).to_json() | {"input": file.name}
            )
    assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".card").count() == 0
    assert page.evaluate("document.activeElement.id") == "files"


def drop(page: Page, *paths: Path) -> None:
    data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    drag = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        drag.send("Input.dispatchDragEvent", {"type": kind, "x": 20, "y": 600, "data": data})


def test_what_is_dropped_is_taken_folders_too(visit: Open, site: Path, tmp_path: Path) -> None:
    folder, picture = tmp_path / "folder", tmp_path / "one.png"
    folder.mkdir()
    for path in (folder / "in.png", picture):
        path.write_bytes(drawn()["glioma-0.png"])
    page = visit()
    drop(page, folder, picture)
    page.locator(".card .words").nth(1).wait_for()
    titles = page.locator(".card .title").all_text_contents()
    assert titles == ["folder/in.png", "one.png"]
    assert not page.evaluate("document.body.classList.contains('over')")
    single = visit(at=site.with_name("web.html").as_uri())
    drop(single, picture)
    single.locator(".card .words").wait_for()
    drop(single, folder)  # Chromium lets no page on a disk read folders
    single.get_by_text("What was dropped cannot be read").wait_for()


def test_without_a_network_it_answers_all_the_same(visit: Open) -> None:
    page = visit()
    page.context.set_offline(True)
    given, _ = answer_in_page(page, "one", drawn()["glioma-0.png"])
    assert given["error"] is None


def test_both_digests_are_told(visit: Open, site: Path) -> None:
    words = visit().locator("#model").inner_text()
    assert read_model().sha256 in words
    assert read_model(site / "model.tflite").sha256 in words


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_axe_finds_nothing(visit: Open, site: Path, size: tuple[int, int]) -> None:
    page = visit(size)
    page.set_input_files("#files", [as_file(site, "one.png"), __file__])
    page.locator(".card .words").nth(1).wait_for()
    page.locator("summary").click()
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        result = Axe().run(page)
        found += [f"{scheme} {rule['id']}" for rule in result.response["violations"]]
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_is_done_by_keyboard(visit: Open, site: Path) -> None:
    page = visit()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        # An answer of the page: by now it knows that its dialog is to be told, not shown. A key
        # that is sent at once can overtake that.
        assert page.evaluate("document.activeElement.id") == "files"
        page.keyboard.press("Space")
    chooser.value.set_files(as_file(site, "one.png"))
    page.locator(".card .words").wait_for()
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "heat"
    page.keyboard.press("Space")
    assert page.locator(".heat").is_checked()


@pytest.fixture
def damaged(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        (
            "model.tflite",
            lambda data: data[:5000] + b"!" + data[5001:],
            "does not match its digest",
        ),
        ("model.tflite", lambda data: data[:-9], "truncated or altered"),
        ("model.tflite", lambda data: b"<html>not found</html>", "is no .tflite"),
        ("model.tflite", None, "model.tflite cannot be read"),
        ("litert.wasm.gz", lambda data: data[: len(data) // 2], "litert.wasm.gz is damaged"),
        ("litert.wasm.gz", None, "litert.wasm.gz cannot be read"),
        ("jpeg-turbo.wasm.gz", None, "jpeg-turbo.wasm.gz cannot be read"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(
    visit: Open, damaged: Path, name: str, harm: Callable[[bytes], bytes] | None, words: str
) -> None:
    path = damaged / name
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm(path.read_bytes()))
    with serving(damaged) as address:
        page = visit(at=address, errors=("404", "Failed to load"))
        told = page.locator("#model").inner_text()
        assert told.startswith("This page cannot answer: ")
        assert words in told
        assert "\n" not in told
        assert page.locator("#files").is_disabled()


def test_the_documents_show_the_page(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.pages", str(tmp_path), "--page", "web"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("web-desktop.png", "web-phone.png"):
        made, kept = (cv2.imread(str(folder / name)) for folder in (tmp_path, ROOT / "docs"))
        assert made is not None
        assert kept is not None
        assert made.shape == kept.shape
        assert made.std() > 20  # neither empty nor all of one colour


def test_the_benchmark_tells_differences(tmp_path: Path) -> None:
    for name in ("glioma-0.png", "notumor-1.jpg", "meningioma-2.png"):
        (tmp_path / name).write_bytes(drawn()[name])
    words = [sys.executable, "-m", "benchmarks.web", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "web.json").read_text("utf-8"))
    assert (result["slices"], result["differ"]) == (3, 0)
    assert result["worst_difference"] < ROUNDED
    assert result["bytes"]["folder"] < result["bytes"]["single"]
    assert "**0** of 3" in (tmp_path / "web.md").read_text("utf-8")
    answer = Classifier().classify(drawn()["glioma-0.png"]).to_json()
    moved = {**answer, "probabilities": {k: v + 0.5 for k, v in answer["probabilities"].items()}}
    assert compare(moved, answer) == (True, pytest.approx(0.5))
    assert not compare({**answer, "status": "another"}, answer)[0]
