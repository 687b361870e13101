"""btc-edge serve answers as btc-edge classify does."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import resource
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("pydicom")
pytest.importorskip("nibabel")
pytest.importorskip("PIL")

from benchmarks.hostile.files import MAKERS, dicom_bytes, nifti_bytes
from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.decision.heatmap import Explained
from edge_runtime.services.upload import LONGEST_SIDE, MOST_PICTURES, Pictures
from tests.services.serving import BTC_EDGE, SLICE, Served, served

DAMAGED = {"half a picture": SLICE[: len(SLICE) // 2], "a text": b"no picture", "one byte": b"\0"}


SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "answer.schema.json"


def problems(answer: Any) -> list[str]:
    """What the schema of an answer finds wrong with it."""
    schema = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    return [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(answer)]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as server:
        yield server


def command(folder: Path, contents: list[bytes], *options: str) -> list[Any]:
    """What the command answers for files of these contents, in their order; each is called as the
    server calls it."""
    paths = [folder / f"{number:03d}" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    words = [BTC_EDGE, "classify", "--format", "json", *options, *paths]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    text = re.sub(f"{re.escape(str(folder))}/[0-9]+", "upload", done.stdout)
    answers: list[Any] = json.loads(text)
    return answers


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def dicom_study(uid: str, count: int) -> dict[str, bytes]:
    """The files of one series, in disorder."""
    return {
        f"{uid}-{number}": dicom_bytes(
            draw_slice(number, 96), StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1",
            SOPInstanceUID=f"{uid}.1.{number}", ImagePositionPatient=[0, 0, 5 * number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1],
        )
        for number in (2, 0, 1)[:count]
    }  # fmt: skip


DROP = zipped(**dicom_study("1.2.3", 3), **dicom_study("1.2.4", 2), a=SLICE, b=SLICE[:500], c=b"no")


def test_every_kind_of_file_is_answered_as_by_the_command(server: Served, tmp_path: Path) -> None:
    contents = [make(seed) for seed, make in enumerate(MAKERS.values())] + list(DAMAGED.values())
    answers: list[Any] = []
    for data in contents:
        answer = server.classify(data)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert {each["input"] for each in answer.json()} == {"upload"}
        answers += answer.json()
    assert answers == command(tmp_path, contents)
    assert problems(answers[0]) == []


STUDIES = {
    **{kind: MAKERS[kind](5) for kind in ("jpg gray", "nii", "dcm", "dcm enhanced")},
    "drop": DROP,
    "no zip": DROP[:-40],
    "bytes": b"no picture",
}


@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_is_answered_as_by_the_command(kind: str, server: Served, tmp_path: Path) -> None:
    answer = server.classify(STUDIES[kind], "?study=1")
    assert answer.status == 200
    assert answer.json() == command(tmp_path, [STUDIES[kind]], "--study")


def test_a_zip_is_a_drop(server: Served) -> None:
    """Its studies are answered by their UIDs, its pictures each alone, damage in its place."""
    answers = server.classify(DROP, "?pictures=1").json()
    found = {answer["input"]: answer for answer in answers}
    assert {"1.2.3", "1.2.4", "upload/a", "upload/b"} <= found.keys()
    assert [part["input"] for part in found["1.2.3"]["slices"]] == [
        f"upload/1.2.3-{number}" for number in range(3)
    ]
    assert found["upload/b"]["status"] == "error"
    [alone] = server.classify(SLICE, "?pictures=1").json()
    assert found["upload/a"] == alone | {"input": "upload/a"}
    drawn = np.stack([draw_slice(number, 96) for number in range(3)]).astype(int)
    for number, part in enumerate(found["1.2.3"]["slices"]):  # each has its own picture
        assert np.abs(decoded(part["picture"]) - drawn).mean(axis=(1, 2)).argmin() == number
        assert part["heatmap"] is None
    assert all(problems(answer) == [] for answer in answers)


def decoded(uri: str) -> Any:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


def test_pictures_are_the_slice_and_its_overlay(server: Served) -> None:
    gray = draw_slice(2, 300, 420)
    body = encode(gray, ".png")
    [plain], [answer] = server.classify(body).json(), server.classify(body, "?pictures=1").json()
    picture, overlay = decoded(answer.pop("picture")), decoded(answer.pop("overlay"))
    assert answer == plain
    small = cv2.resize(gray, (256, 183), interpolation=cv2.INTER_AREA)
    assert picture.shape == small.shape
    assert np.abs(picture.astype(int) - small).mean() < 3
    assert overlay.shape == (*small.shape, 3)
    assert np.ptp(overlay.astype(int), axis=2).max() > 20  # in colour


def test_pictures_stand_beside_slices_and_are_null_where_there_is_none(server: Served) -> None:
    volume = nifti_bytes(np.stack([draw_slice(s, 64) for s in range(3)], axis=2))
    [study] = server.classify(volume, "?study=1&pictures=1").json()
    assert "picture" not in study
    assert all(decoded(part["picture"]).shape == (64, 64) for part in study["slices"])
    [damaged] = server.classify(b"no picture", "?pictures=1").json()
    assert (damaged["status"], damaged["picture"], damaged["overlay"]) == ("error", None, None)
    assert problems(study) == problems(damaged) == []


def test_pictures_of_long_studies_are_fewer_and_evenly_spread() -> None:
    pictures, count = Pictures(), 3 * MOST_PICTURES
    for number in range(count):
        gray = np.full((8, 8), number % 200, np.uint8)
        assert pictures(Explained("x", number, "0f", gray, None, (0, 0, 1, 1))) == str(number)
    shown = [n for n in range(count) if pictures.of(str(n))["picture"]]
    assert shown == list(range(0, count, 4))
    assert len(shown) <= MOST_PICTURES
    assert pictures.of("0")["overlay"] is None


def test_a_slice_that_is_long_and_thin_has_a_picture() -> None:
    pictures = Pictures()
    gray = np.zeros((1, 5000), np.uint8)
    drawn = Explained("x", None, "0f", gray, np.eye(3, dtype=np.float32), (0, 0, 1, 1))
    shown = pictures.of(pictures(drawn))
    assert decoded(str(shown["picture"])).shape == (1, LONGEST_SIDE)
    assert decoded(str(shown["overlay"])).shape == (1, LONGEST_SIDE, 3)


@pytest.mark.parametrize(
    "query", ["?study=2", "?study=", "?other=1", "?study=1&study=1", "?pictures=yes"]
)
def test_other_queries_are_refused(query: str, server: Served) -> None:
    answer = server.classify(SLICE, query)
    assert answer.status == 400
    assert list(answer.json()) == ["error"]


def test_info_is_that_of_the_command(server: Served) -> None:
    told = server.ask("GET", "/v1/info").json()
    said = subprocess.run(
        [str(BTC_EDGE), "info", "--format", "json"], capture_output=True, text=True, check=True
    )
    assert told["model"] == json.loads(said.stdout)
    assert told["limits"]["body_bytes"] == 256 << 20
    assert told["intended_use"].startswith("Research")


def test_routes_and_methods(server: Served) -> None:
    page = server.ask("GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"esearch use only" in page.body
    assert server.ask("GET", "/healthz").json() == {"status": "ok"}
    assert server.ask("HEAD", "/healthz").body == b""
    wrong = server.ask("GET", "/v1/classify")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert server.ask("GET", "/v1/nothing").status == 404
    assert server.ask("DELETE", "/healthz").status == 405


SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_][a-z0-9_]*="(?:[^"\\\n]|\\[\\n"])*",?)+)\})? (\S+)'
)


def samples(text: str) -> dict[tuple[str, str], float]:
    """The samples of a text in Prometheus' format; each family has its HELP and TYPE before it."""
    found: dict[tuple[str, str], float] = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
            continue
        if line.startswith("# HELP "):
            continue
        parsed = SAMPLE.fullmatch(line)
        assert parsed, line
        name, labels = parsed[1], parsed[2] or ""
        family = name if name in kinds else re.sub("_(bucket|sum|count)$", "", name)
        assert (kinds[family] == "histogram") == (name != family)
        assert kinds[family] != "counter" or name.endswith("_total")
        assert (name, labels) not in found
        found[name, labels] = float(parsed[3])
    return found


def test_metrics_count_and_have_prometheus_format() -> None:
    with served() as server:
        assert server.classify(SLICE).status == 200
        assert server.classify(b"no picture").status == 200
        assert server.ask("GET", "/a/patient's/name").status == 404
        answer = server.ask("GET", "/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(answer.body.decode())
        info = server.ask("GET", "/v1/info").json()
    route = 'route="/v1/classify"'
    assert found["btc_edge_requests_total", f'{route},status="200"'] == 2
    assert found["btc_edge_requests_total", 'route="other",status="404"'] == 1
    assert found["btc_edge_body_bytes_total", ""] == len(SLICE) + len(b"no picture")
    assert found["btc_edge_answers_total", 'status="error"'] == 1
    assert found["btc_edge_requests_in_flight", ""] == 1  # this one
    assert found["btc_edge_slots_taken", ""] == found["btc_edge_bodies_held_bytes", ""] == 0
    assert "patient" not in answer.body.decode()
    [model] = [labels for name, labels in found if name == "btc_edge_model_info"]
    assert info["model_file"]["sha256"] in model
    counts = [
        value
        for (name, labels), value in found.items()
        if name == "btc_edge_request_seconds_bucket" and route in labels
    ]
    assert counts == sorted(counts)
    assert counts[-1] == found["btc_edge_request_seconds_count", route] == 2
    assert math.isfinite(found["btc_edge_request_seconds_sum", route])


def test_no_byte_is_written_to_a_disk(server: Served) -> None:
    def forbid() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    with served(prepare=forbid) as bound:
        for query in ("", "?study=1", "?pictures=1", "?study=1&pictures=1"):
            for body in (SLICE, DROP, MAKERS["nii.gz"](1), MAKERS["dcm jpeg 2000"](1)):
                assert bound.classify(body, query).body == server.classify(body, query).body
        assert bound.end() == 0
