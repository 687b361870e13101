"""The page of `btc-edge serve`: the real server, and a real browser (Debian's Chromium)."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("pydicom")
pytest.importorskip("nibabel")
pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Locator, Page, Route, expect

from benchmarks.common.browser import chromium
from benchmarks.hostile.pictures import encode
from edge_runtime.classifier import Classifier
from tests.device.volume_files import SECRET, SIZE, draw_head, nifti, series
from tests.documents import ROOT
from tests.services.serving import Served, served
from trainer.synthetic.phantoms import draw_phantom

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
TOKEN = "drawn-slices-only-0123456789"
DESKTOP, PHONE = (1280, 900), (375, 720)
COUNT = 12  # slices of the drawn series
HOSTILE, QUOTED = "<img src=x onerror=alert(1)>.png", "inside/\"'&.png"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


Open = Callable[..., "Page"]


@pytest.fixture
def visit(browser: Browser, server: Served) -> Iterator[Open]:
    """Opens the page. At the end: nothing was asked of another origin, and the console, which
    tells violations of the Content-Security-Policy too, has no error but the expected ones."""
    contexts, wrong, expected = [], [], []
    addresses = {f"http://{server.address}/"}

    def visited(
        size: tuple[int, int] = DESKTOP, at: Served = server, errors: tuple[str, ...] = ()
    ) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        context.set_default_timeout(60_000)  # a busy machine
        expected.extend(errors)
        addresses.add(address := f"http://{at.address}/")
        page = context.new_page()
        page.on("request", lambda request: _check_address(request.url, addresses, wrong))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(address)
        return page

    yield visited
    for context in contexts:
        context.close()
    assert [line for line in wrong if not any(part in line for part in expected)] == []


def _check_address(url: str, addresses: set[str], wrong: list[str]) -> None:
    if not url.startswith((*addresses, "data:", "blob:")):
        wrong.append(url)


def drawn(label: str, seed: int) -> bytes:
    """A phantom as PNG. The bundled model's answer for it is nobody's diagnosis."""
    return encode(draw_phantom(label, np.random.default_rng(seed)), ".png")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a damaged one, a zip with hostile names, and a folder with a series."""
    folder = tmp_path_factory.mktemp("files")
    pictures = {"one.png": drawn("meningioma", 0), "two.png": drawn("glioma", 0)}
    pictures["three.png"] = drawn("glioma", 2)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    (folder / "head.nii").write_bytes(nifti(draw_head()))
    (folder / "damaged.png").write_bytes(pictures["one.png"][:900])
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        archive.writestr(HOSTILE, pictures["one.png"])
        archive.writestr(QUOTED, pictures["two.png"])
    inside = folder / f"series-{SECRET['PatientName']}" / "head"
    inside.mkdir(parents=True)
    for number, data in series(draw_head(), skip=range(COUNT, 99)).items():
        (inside / f"{SECRET['PatientID']}-{number}.dcm").write_bytes(data)
    (inside / "viewer.exe").write_bytes(b"MZ and more")
    return folder


# Of a Blob the browser's protocol does not tell what was sent.
KEEP_BODIES = """() => {
    const send = XMLHttpRequest.prototype.send;
    window.bodies = [];
    XMLHttpRequest.prototype.send = function (body) { bodies.push(body); send.call(this, body); };
}"""
FIRST_BODY = "bodies[0].arrayBuffer().then(buffer => [...new Uint8Array(buffer)])"


def choose(page: Page, *paths: Path) -> None:
    page.set_input_files("#files", list(paths))


def choose_series(page: Page, files: Path) -> None:
    page.set_input_files("#folder", files / f"series-{SECRET['PatientName']}")


def card(page: Page, title: str) -> Locator:
    """The card of a file once it has its answer."""
    return page.locator(".card:not(.waiting)").filter(has=page.get_by_role("heading", name=title))


def figures(part: Locator) -> dict[str, str]:
    """The probabilities that a card shows."""
    rows = part.locator(".bars").first.locator("tr")
    return {row.split("\t")[0]: row.split("\t")[-1] for row in rows.all_inner_texts()}


def as_shown(probabilities: Any) -> dict[str, str]:
    names = {"notumor": "no tumour"}
    return {names.get(k, k): f"{v * 100:.1f} %" for k, v in probabilities.items()}


def has_no_sideways_scrolling(page: Page) -> bool:
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return bool(wide <= seen)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pictures_are_answered_as_by_the_classifier(
    visit: Open, files: Path, size: tuple[int, int]
) -> None:
    page = visit(size)
    assert page.get_by_text("Research use only; not a diagnosis").is_visible()
    names = ["one.png", "two.png", "three.png"]
    choose(page, *(files / name for name in names), files / "damaged.png")
    classifier, seen = Classifier(), set()
    for name in names:
        answer = classifier.classify(files / name)
        shown = card(page, name)
        shown.wait_for()
        assert figures(shown) == as_shown(answer.probabilities)
        words = shown.locator(".answer").inner_text()
        assert (answer.reason or answer.label or "") in words
        seen.add(answer.status.value)
        plain = shown.locator("img").get_attribute("src")
        shown.get_by_label("Show the heatmap").check()
        heated = shown.locator("img").get_attribute("src")
        assert plain != heated
        assert {str(source)[:11] for source in (plain, heated)} == {"data:image/"}
    assert seen == {"ok", "uncertain", "unfamiliar"}
    assert "damaged" in card(page, "damaged.png").locator(".answer").inner_text()
    assert page.locator("#news").inner_text().startswith("4 of 4 answered.")
    assert classifier.info.version in page.locator("#model").inner_text()
    assert has_no_sideways_scrolling(page)
    page.mouse.wheel(0, 5000)
    assert page.get_by_text("Research use only; not a diagnosis").is_visible()


def test_answers_are_saved_as_json(visit: Open, files: Path) -> None:
    page = visit()
    choose(page, files / "one.png", files / "pictures.zip")
    card(page, HOSTILE).wait_for()
    card(page, "one.png").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    saved = json.loads(Path(download.value.path()).read_text("utf-8"))
    by_name = {answer["input"]: answer for answer in saved}
    inside = {f"pictures.zip: {name}" for name in (HOSTILE, QUOTED)}
    assert by_name.keys() == {"one.png", *inside}
    alone = Classifier().classify(files / "one.png").to_json()
    assert by_name["one.png"] == {**alone, "input": "one.png"}


def test_a_series_goes_as_one_zip_of_numbers(visit: Open, files: Path) -> None:
    page = visit()
    page.evaluate(KEEP_BODIES)
    with page.expect_request("**/v1/classify?*") as sent:
        choose_series(page, files)
    shown = card(page, "DICOM files")
    shown.wait_for()
    body = bytes(page.evaluate(FIRST_BODY))
    own = {path.read_bytes() for path in files.rglob("*.dcm")}
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{number:05d}" for number in range(1, COUNT + 1)]
        assert {archive.read(name) for name in archive.namelist()} == own
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert ".dcm" not in sent.value.url + str(sent.value.headers)
    assert f"{COUNT} DICOM files" in shown.get_by_role("heading").first.inner_text()
    slider = shown.get_by_role("slider")
    assert slider.get_attribute("max") == str(COUNT - 1)
    assert "1 file passed over" in page.locator("#notes").inner_text()


def test_slices_of_a_study_are_scrolled(visit: Open, files: Path) -> None:
    page = visit(PHONE)
    choose_series(page, files)
    shown = card(page, "DICOM files")
    seen, wide = shown.locator(".wide").first.evaluate("e => [e.clientWidth, e.scrollWidth]")
    assert wide <= seen, "whether a series was used stands in the last column"
    slider, where = shown.get_by_role("slider"), shown.locator(".where")
    slider.press("Home")
    first = shown.locator("img").get_attribute("src")
    assert where.inner_text().startswith(f"Slice 1 of {COUNT}")
    slider.press("ArrowRight")
    assert where.inner_text().startswith(f"Slice 2 of {COUNT}")
    assert str(slider.get_attribute("aria-valuetext")).startswith(f"Slice 2 of {COUNT}")
    shown.locator(".frame").hover()
    page.mouse.wheel(0, 60)
    expect(where).to_contain_text(f"Slice 3 of {COUNT}")
    slider.press("End")
    assert where.inner_text().startswith(f"Slice {COUNT} of {COUNT}")
    assert shown.locator("img").get_attribute("src") != first
    assert shown.locator(".viewer .bars tr").count() == 4
    assert has_no_sideways_scrolling(page)


def finding(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The server's answers for a series as a model would give them that finds something."""
    (answer,) = answers
    answer["study"] = {
        "uid": "1.2.3",
        "tumor": 0.93,
        "type": {"label": "glioma", "confidence": 0.9},
        "findings": [
            {"series": 1, "first": 6, "last": 9, "slice": 8, "box": [0.25, 0.5, 0.125, 0.25]},
            {"series": 0, "first": 1, "last": 1, "slice": 1, "box": None},
        ],
        "series": [
            {"uid": "1", "name": "1", "plane": None, "sequence": None, "first": 0, "slices": 4,
             "used": True, "reason": None},
            {"uid": "2", "name": "2", "plane": "axial", "sequence": "T1", "first": 4, "slices": 8,
             "used": True, "reason": None},
            {"uid": "3", "name": "3", "plane": None, "sequence": None, "first": 12, "slices": 0,
             "used": False, "reason": "a localiser"},
        ],
        "passed_over": [{"input": f"upload/{HOSTILE}", "reason": "not an image"},
                        {"input": "upload/00003", "reason": "a copy"}],
    }  # fmt: skip
    return answers


def found(route: Route) -> None:
    """Let the server answer, and put a finding into what it says."""
    answer = route.fetch()
    route.fulfill(response=answer, json=finding(answer.json()))


def test_findings_lead_to_their_slices(visit: Open, files: Path) -> None:
    page = visit()
    page.route("**/v1/classify?*", found)
    choose_series(page, files)
    shown = card(page, "DICOM files")
    where, box = shown.locator(".where"), shown.locator(".box rect")
    assert "Evidence of a tumour: 93 %. Type: glioma, 90 %" in shown.inner_text()
    assert where.inner_text() == "Slice 5 of 8, in a finding"
    image = shown.locator("img")
    wide, tall = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    sides = [float(str(box.get_attribute(k))) for k in ("x", "y", "width", "height")]
    assert sides == [0.25 * wide, 0.5 * tall, 0.125 * wide, 0.25 * tall]
    assert box.is_visible()
    shown.get_by_role("button", name="Series 1, slice 2").click()
    assert where.inner_text() == "Slice 2 of 4, in a finding"
    assert not box.is_visible()
    assert shown.get_by_role("slider").evaluate("part => part === document.activeElement")
    shown.get_by_role("button", name="Series 2 (axial T1), slices 3–6").click()
    assert where.inner_text() == "Slice 5 of 8, in a finding"
    shown.get_by_label("Series", exact=True).select_option("0")
    assert where.inner_text() == "Slice 1 of 4"
    rows = shown.locator(".series tbody tr").all_inner_texts()
    assert [row.split("\t")[-1] for row in rows] == ["yes", "yes", "no: a localiser"]
    shown.get_by_text("2 files passed over").click()
    passed = shown.locator(".passed li").all_inner_texts()
    assert passed[0].endswith(f"{HOSTILE}: not an image")
    assert re.search(rf"{SECRET['PatientID']}-\d+\.dcm: a copy", passed[1])
    assert shown.locator("img[src=x]").count() == 0


def test_names_in_a_zip_are_text(visit: Open, files: Path) -> None:
    page = visit(errors=("TrustedHTML",))
    choose(page, files / "pictures.zip")
    card(page, HOSTILE).wait_for()
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".card").count() == 2
    with pytest.raises(Error, match="TrustedHTML"):  # nor could a script of the page's own
        page.evaluate("document.body.innerHTML = '<p>injected</p>'")


def test_a_volume_is_a_study(visit: Open, files: Path) -> None:
    page = visit()
    choose(page, files / "head.nii")
    assert card(page, "head.nii").get_by_role("slider").get_attribute("max") == str(SIZE[2] - 1)


def test_what_is_dropped_is_taken_folders_too(visit: Open, files: Path) -> None:
    page = visit()
    page.locator("#drop").wait_for()
    folder = files / f"series-{SECRET['PatientName']}"
    data = {"items": [], "files": [str(folder), str(files / "one.png")], "dragOperationsMask": 1}
    drag = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        drag.send("Input.dispatchDragEvent", {"type": kind, "x": 20, "y": 600, "data": data})
    card(page, f"{COUNT} DICOM files").wait_for()
    card(page, "one.png").wait_for()


def focused(page: Page) -> str:
    """The id, the class or the role of what has the focus."""
    return str(page.evaluate(
        "(e => e.id || e.type || e.className || e.tagName)(document.activeElement)"
    ))  # fmt: skip


def tab_to(page: Page, name: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if focused(page) == name:
            return
    raise AssertionError(f"the keyboard does not reach {name}")


def test_the_keyboard_alone_is_enough(visit: Open, files: Path) -> None:
    page = visit()
    with page.expect_file_chooser() as chooser:
        tab_to(page, "files")
        page.keyboard.press("Enter")
    chooser.value.set_files(sorted(files.rglob("*.dcm")))
    shown = card(page, f"{COUNT} DICOM files")
    shown.wait_for()
    tab_to(page, "range")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert shown.locator(".where").inner_text().startswith(f"Slice 2 of {COUNT}")
    first = shown.locator("img").get_attribute("src")
    tab_to(page, "checkbox")
    page.keyboard.press("Space")
    assert shown.locator("img").get_attribute("src") != first
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def violations(page: Page) -> list[str]:
    """What axe-core finds, in light and in dark."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        result = Axe().run(page)
        found += [
            f"{scheme} {rule['id']}: {node['html'][:120]}"
            for rule in result.response["violations"]
            for node in rule["nodes"]
        ]
    return found


def test_axe_finds_nothing(visit: Open, files: Path) -> None:
    page = visit()
    page.locator("#model", has_text="Model").wait_for()
    assert violations(page) == []
    choose(page, files / "one.png", files / "three.png", files / "damaged.png")
    for name in ("one.png", "three.png", "damaged.png"):
        card(page, name).wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".card").count() == 0
    page.route("**/v1/classify?*", found)
    choose_series(page, files)
    card(page, "DICOM files").get_by_text("2 files passed over").click()
    assert violations(page) == []


def test_a_busy_server_is_asked_again(visit: Open, files: Path) -> None:
    page = visit(errors=("503",))
    asked = []

    def busy_once(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=503, headers={"Retry-After": "0"}, json={"error": "busy"})
        else:
            route.continue_()

    page.route("**/v1/classify?*", busy_once)
    choose(page, files / "one.png")
    card(page, "one.png").wait_for()
    assert len(asked) == 2


def test_a_token_is_asked_for_and_a_lost_server_loses_nothing(visit: Open, files: Path) -> None:
    options, token_of = ("--max-mib", 1), {"BTC_EDGE_TOKEN": TOKEN}
    gone, large = files / "gone.png", files / "large.png"
    shutil.copy(files / "two.png", gone)
    large.write_bytes((files / "one.png").read_bytes().ljust(1 << 21))
    with served(*options, environment=token_of) as guarded:
        page = visit(PHONE, guarded, errors=("401", "ERR_"))
        token = page.get_by_label("Token")
        token.fill("another word of no use at all")
        choose(page, files / "one.png", gone)
        page.locator(".card.waiting").nth(1).wait_for()
        gone.unlink()
        token.press("Enter")
        page.get_by_text("That is not the token of this server.").wait_for()
        assert violations(page) == []
        token.fill(TOKEN)
        page.get_by_role("button", name="Unlock").click()
        card(page, "one.png").wait_for()
        assert not token.is_visible()
        assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]
        page.get_by_text("The file can no longer be read: choose it again.", exact=True).wait_for()
        choose(page, large)
        page.get_by_text("2 MiB: this server takes 1 MiB at a time.", exact=True).wait_for()
        page.get_by_role("button", name="Clear").click()

        guarded.process.send_signal(signal.SIGSTOP)  # the request is on its way, and stays there
        with page.expect_request("**/v1/classify?*"):
            choose(page, files / "two.png")
    page.locator(".state", has_text="The server cannot be reached.").wait_for()
    assert violations(page) == []
    with served(*options, "--port", guarded.port, environment=token_of):
        page.get_by_role("button", name="Send again").click()
        card(page, "two.png").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "two.png"
        assert has_no_sideways_scrolling(page)


def test_the_documents_show_the_page(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.pages", str(tmp_path), "--page", "serve"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("serve-desktop.png", "serve-phone.png"):
        made, kept = (cv2.imread(str(folder / name)) for folder in (tmp_path, ROOT / "docs"))
        assert made is not None
        assert kept is not None
        assert made.shape == kept.shape
        assert made.std() > 20  # neither empty nor all of one colour
