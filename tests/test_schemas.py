"""The JSON schemas in docs/schemas are kept by what the commands write."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from jsonschema import Draft202012Validator

from edge_runtime.model.load import bundled_model, read_model
from export.signing import sign_file
from tests.device.conftest import draw_slice, write_keys
from trainer.synthetic.phantoms import write_phantoms

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
NAMES = ("answer", "audit", "benchmark", "export", "metrics", "model", "run", "verify")
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
    "verify": checks,
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
    ],
)
def test_an_impossible_answer_fails(change: dict[str, Any], place: str) -> None:
    probabilities = {"glioma": 0.75, "notumor": 0.25}
    answer = {
        "input": "a.png", "status": "ok", "label": "glioma", "raw_label": "glioma",
        "confidence": 0.75, "probabilities": probabilities, "reason": None, "sha256": "0" * 64,
        "model": "tiny 1 int8 00000000", "error": None, "slice": None, "heatmap": None,
    }  # fmt: skip
    assert problems("answer", answer) == []
    assert any(line.startswith(place) for line in problems("answer", answer | change))


def assert_wrong_types_fail(name: str, document: Any) -> None:
    """Every value that a schema names is refused in another type, and a missing field too."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    entry = document[0] if isinstance(document, list) else document
    named = schema["items"] if isinstance(document, list) else schema
    for field in named.get("required", ()):
        assert problems(name, _changed(document, lambda e, f=field: e.pop(f))), field
    for field in named["properties"].keys() & entry.keys():
        wrong = ["wrong"] if isinstance(entry[field], (int, float)) else -7.5
        changed = _changed(document, lambda e, f=field, w=wrong: e.update({f: w}))
        assert problems(name, changed) or not named["properties"][field], field


def _changed(document: Any, change: Callable[[dict[str, Any]], object]) -> Any:
    other = copy.deepcopy(document)
    change(other[0] if isinstance(other, list) else other)
    return other
