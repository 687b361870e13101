"""The JSON schemas in docs/schemas are kept by what the commands write."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from jsonschema import Draft202012Validator

from edge_runtime.model.backends import BACKENDS
from edge_runtime.model.load import bundled_model, read_model
from export.formats import FORMATS
from export.signing import sign_file
from tests.device.conftest import draw_slice, write_keys
from trainer.former import metrics_of_today, settings_of_today
from trainer.synthetic.phantoms import write_phantoms

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
NAMES = ("answer", "audit", "benchmark", "export", "metrics", "model", "picked", "run", "verify",
         "archive-manifest", "archive-plan", "archive-shard", "archive-summary")  # fmt: skip
FORMER = Path(__file__).with_name("former")
BIN = Path(sys.executable).parent
SIZE = ("--size", "32")


def problems(name: str, document: Any) -> list[str]:
    """What a schema of docs/schemas finds wrong with a document, a line each."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    found = Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


def btc(*words: object, codes: tuple[int, ...] = (0,)) -> str:
    command = [BIN / f"btc-{words[0]}", *words[1:]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode in codes, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms.zip, its tables, and some of its pictures."""
    folder = tmp_path_factory.mktemp("schemas")
    write_phantoms(folder / "phantoms.zip", per_class=24, testing=0.25, seed=3)
    with zipfile.ZipFile(folder / "phantoms.zip") as archive:
        names = archive.namelist()
        archive.extractall(folder / "slices", [n for n in names if n.startswith("Testing/")])
    rows = [
        f"{name},{name.split('/')[1]},g{i // 2},p{i // 2},{'home' if i % 4 else 'other'}"
        for i, name in enumerate(names)
    ]
    (folder / "groups.csv").write_text("\n".join(["path,label,group,patient,source", *rows, ""]))
    (folder / "study").mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / "study" / f"{i}.png"), draw_slice(i))
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A small training of a classical model, exported."""
    out = data / "run"
    btc("train", data / "phantoms.zip", "--groups", data / "groups.csv", "--model", "logistic",
        "--features", "histogram", *SIZE, "--no-cache", "--out", out)  # fmt: skip
    btc("export", out, "--onnx")
    return out


def answers(data: Path) -> list[Any]:
    pictures = (data / "study" / "0.png", data / "damaged.jpg")
    array = json.loads(btc("edge", "classify", *pictures, "--format", "json", codes=(1,)))
    lines = btc("edge", "classify", "--study", data / "study", "--format", "jsonl", "--top", 2)
    assert [answer["status"] for answer in array][1] == "error"
    return [*array, *map(json.loads, lines.splitlines())]


def models(data: Path) -> list[Any]:
    return [json.loads(btc("edge", "info", "--format", "json"))]


def benchmarks(data: Path) -> list[Any]:
    quick = ("--queries", 10, "--seconds", 0, "--format", "json")
    labelled = ("--images", data / "slices", "--pick")
    return [json.loads(btc("edge", "benchmark", *quick, *more)) for more in ((), labelled)]


def picks(data: Path) -> list[Any]:
    folder = data / "models"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(bundled_model().read_bytes())
    quick = ("--queries", 10, "--seconds", 0, "--images", data / "slices", "--pick")
    btc("edge", "benchmark", *quick, "--model", folder)
    return [json.loads((folder / "picked.json").read_text("utf-8"))]


def checks(data: Path) -> list[Any]:
    """Without a signature, with one that is not checked, and with one that is."""
    keys, model = write_keys(data), data / "model.tflite"
    words = ("edge", "verify", model, "--format", "json")
    model.write_bytes(bundled_model().read_bytes())
    documents = [json.loads(btc(*words))]
    sign_file(model, keys / "our.pem")
    documents.append(json.loads(btc(*words)))
    documents.append(json.loads(btc(*words, "--public-key", keys / "our.pub.pem")))
    assert [document["signed"] for document in documents] == [False, None, True]
    return documents


def audits(data: Path) -> list[Any]:
    words = ("audit", data / "phantoms.zip", "--out", data / "audit", "--format", "json")
    shown = json.loads(btc(*words, "--groups", data / "groups.csv", codes=(0, 1)))
    assert shown == json.loads((data / "audit" / "audit.json").read_text("utf-8"))
    return [shown]


WRITTEN: dict[str, Callable[[Path], list[Any]]] = {
    "answer": answers, "model": models, "benchmark": benchmarks, "audit": audits,
    "picked": picks, "verify": checks,
}  # fmt: skip


def test_columns_are_those_that_the_document_names(data: Path) -> None:
    text = " ".join((SCHEMAS.parent / "shapes.md").read_text("utf-8").split())
    header = btc("edge", "classify", data / "study" / "0.png", "--format", "csv").splitlines()[0]
    columns = header.split(",")
    shares = [i for i, name in enumerate(columns) if name.startswith("p_")]
    columns[shares[0] : shares[-1] + 1] = ["p_<label>…"]
    assert f"`{', '.join(columns)}`" in text


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_schema(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_no_schema_is_left_untested() -> None:
    assert {path.name.partition(".")[0] for path in SCHEMAS.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_commands_print_keeps_its_schema(name: str, data: Path) -> None:
    for document in WRITTEN[name](data):
        assert problems(name, document) == []
        assert_wrong_types_fail(name, document)


@pytest.mark.slow
def test_what_a_training_leaves_keeps_its_schema(run: Path, data: Path) -> None:
    written = {
        "run": run / "run.json",
        "metrics": run / "metrics.json",
        "export": run / "export" / "export.json",
    }
    documents = {name: json.loads(path.read_text("utf-8")) for name, path in written.items()}
    (file,) = (run / "export").glob("*.onnx")
    documents["model"] = json.loads(read_model(file).info.to_json())
    for name, document in documents.items():
        assert problems(name, document) == [], name
        assert_wrong_types_fail(name, document)
    again = btc("evaluate", run, data / "phantoms.zip", "--groups", data / "groups.csv",
                "--format", "json")  # fmt: skip
    assert problems("metrics", json.loads(again)) == []


@pytest.mark.parametrize("name", ["network-int8.tflite", "network.onnx", "classical.onnx"])
def test_model_files_of_the_former_version_keep_the_schema(name: str) -> None:
    content = (FORMER / "files" / name).read_bytes()
    begin = content.rindex(b'{\n "') if name.endswith("onnx") else None
    if begin is None:
        with zipfile.ZipFile(FORMER / "files" / name) as archive:
            text = archive.read("model.json").decode()
    else:
        text = content[begin:].decode("utf-8", "ignore")
    document, _ = json.JSONDecoder().raw_decode(text)
    assert document["schema"] == 1
    assert "unfamiliar" in document
    assert problems("model", document) == []
    assert problems("model", document | {"schema": 2})  # where the field is called `ood`


def test_export_json_of_the_former_version_keeps_the_schema() -> None:
    document = json.loads((FORMER / "files" / "export.json").read_text("utf-8"))
    assert problems("export", document) == []
    assert_wrong_types_fail("export", document)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"status": "fine"}, "$.status"),
        ({"confidence": 1.5}, "$.confidence"),
        ({"status": "uncertain"}, "$.label"),  # an uncertain answer names no label
        ({"sha256": "abc"}, "$.sha256"),
        ({"probabilities": None}, "$.probabilities"),
        ({"label": None, "status": "unfamiliar"}, "$.reason"),
        ({"error": "two\nlines"}, "$.error"),
        ({"label": None, "raw_label": None, "confidence": None, "probabilities": None,
          "status": "error"}, "$.error"),
    ],
)  # fmt: skip
def test_an_impossible_answer_fails(change: dict[str, Any], place: str) -> None:
    probabilities = {"glioma": 0.75, "notumor": 0.25}
    answer = {
        "input": "a.png", "status": "ok", "label": "glioma", "raw_label": "glioma",
        "confidence": 0.75, "probabilities": probabilities, "reason": None, "sha256": "0" * 64,
        "model": "tiny 1 int8 00000000", "error": None, "slice": None, "heatmap": None,
        "plane": None, "sequence": None,
    }  # fmt: skip
    assert problems("answer", answer) == []
    assert any(line.startswith(place) for line in problems("answer", answer | change))
    assert answer["label"] == answer["raw_label"]


def former(name: str, kind: str) -> dict[str, Any]:
    """The run.json or metrics.json of a former run, as this version reads it."""
    shape = json.loads((FORMER / kind / f"{name}.json").read_text("utf-8"))
    return settings_of_today(shape) if name == "run" else metrics_of_today(shape)


@pytest.mark.parametrize("kind", ["network", "classical"])
@pytest.mark.parametrize("name", ["run", "metrics"])
def test_runs_of_the_former_version_keep_the_schema_as_they_are_read(name: str, kind: str) -> None:
    document = former(name, kind)
    assert problems(name, document) == []
    assert_wrong_types_fail(name, document)


@pytest.mark.parametrize(
    "field", ["thresholds", "ood", "target_error", "confidence", "error_bound", "not_answered"]
)
def test_a_finished_run_has_its_decision_rule(field: str) -> None:
    document = former("run", "network")
    del document[field]
    assert problems("run", document)
    assert problems("run", document | {"status": "interrupted"}) == []
    assert problems("run", former("run", "network") | {"labels": []})
    assert problems("run", former("run", "network") | {"temperature": None})


@pytest.mark.parametrize(
    ("name", "kind", "place", "value"),
    [
        ("metrics", "network", ("interval95", "accuracy"), [-0.1, 0.9]),
        ("metrics", "network", ("interval95", "kappa"), [0.1, 1.5]),
        ("metrics", "network", ("interval95", "log_loss"), [-0.1, 1.5]),
        ("metrics", "network", ("baselines", "nearest_neighbour"), {}),
        ("metrics", "network", ("baselines", "another"), {}),
        ("metrics", "classical", ("importance", "sets"), {}),
        ("metrics", "classical", ("importance", "parts", 0, "drop"), 2),
        ("run", "network", ("training", "recipe", "paste"), 1.5),
        ("run", "network", ("training", "epochs"), 0),
        ("run", "classical", ("training", "features"), []),
        ("run", "classical", ("search",), {"classify__C": [1]}),
        ("run", "classical", ("network",), "edge"),
    ],
)
def test_an_impossible_value_of_a_run_fails(
    name: str, kind: str, place: tuple[str | int, ...], value: Any
) -> None:
    document = former(name, kind)
    assert problems(name, document) == []
    assert problems(name, _with(document, place, value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0, "failures"), ["one class too few"]),  # and passed
        ((0, "passed"), False),  # without a failure
        ((0, "path"), "brain-mri-int8.tflite.rejected"),
        ((0, "format"), "int4"),
        ((0, "scheme"), "int4"),
        ((0, "interval95"), [-2, 0]),
        ((), []),
    ],
)
def test_an_impossible_export_fails(place: tuple[str | int, ...], value: Any) -> None:
    document = json.loads((FORMER / "files" / "export.json").read_text("utf-8"))
    assert problems("export", _with(document, place, value))


def test_schemas_know_the_formats() -> None:
    entry = json.loads((SCHEMAS / "export.schema.json").read_text("utf-8"))["items"]["properties"]
    model = json.loads((SCHEMAS / "model.schema.json").read_text("utf-8"))["properties"]
    schemes = {form.scheme for form in FORMATS.values()}
    picked = json.loads((SCHEMAS / "picked.schema.json").read_text("utf-8"))["properties"]
    assert entry["format"]["enum"] == list(FORMATS)
    assert picked["backend"]["enum"] == list(BACKENDS)
    assert set(entry["scheme"]["enum"]) == schemes
    assert set(model["quantization"]["properties"]["scheme"]["enum"]) == schemes
    assert set(entry["runtimes"]["items"]["enum"]) == {
        name for form in FORMATS.values() for name in form.runtimes
    }


def assert_wrong_types_fail(name: str, document: Any) -> None:
    """Every value is refused in another type, at any depth, and a missing required field too."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    named = schema["items"] if isinstance(document, list) else schema
    for field in named.get("required", ()):
        assert problems(name, _changed(document, lambda e, f=field: e.pop(f))), field
    for place, value in _places(document):
        wrong = -7.5 if isinstance(value, (dict, list)) else [["wrong"]]
        assert problems(name, _with(document, place, wrong)), place


Place = tuple[str | int, ...]


def _places(document: Any, here: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Each value within a document; of lists the first element's only."""
    if isinstance(document, dict):
        inner: list[tuple[str | int, Any]] = list(document.items())
    else:
        inner = list(enumerate(document[:1])) if isinstance(document, list) else []
    for key, value in inner:
        yield (*here, key), value
        yield from _places(value, (*here, key))


def _with(document: Any, place: Place, value: Any) -> Any:
    """A copy of a document with another value at a place; without a place the value itself."""
    if not place:
        return value
    first, rest = place[0], place[1:]
    other = copy.copy(document)
    other[first] = _with(document[first], rest, value) if rest else value
    return other


def _changed(document: Any, change: Callable[[dict[str, Any]], object]) -> Any:
    other = copy.deepcopy(document)
    change(other[0] if isinstance(other, list) else other)
    return other
