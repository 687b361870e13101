"""What goes with exported files: a card that the Hub's reader takes, a BOM that CycloneDX takes."""

from __future__ import annotations

import getpass
import json
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from export.bom import ml_bom
from export.card import model_card, write_card
from export.commands.export import command
from trainer.run import Run


@pytest.fixture(scope="module")
def folder(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("travels") / "out"
    words = [str(tiny_run.folder), "--float32", "--out", str(out), "--license", "CC-BY-SA-4.0"]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    assert "README.md and bom.cdx.json" in result.output
    return out


@pytest.fixture(scope="module")
def entries(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "export.json").read_text("utf-8"))
    return found


def test_the_hub_reads_the_card(folder: Path, tiny_run: Run) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub")
    card = hub.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-sa-4.0", "btc-edge")
    assert card.data.pipeline_tag == "image-classification"
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    metrics = tiny_run.metrics()
    assert figures == {key: metrics[key] for key in ("accuracy", "balanced_accuracy")}
    again = hub.ModelCardData(**card.data.to_dict())
    assert again.to_dict() == card.data.to_dict()
    assert "Research use only; not for diagnosis." in card.text


def test_the_card_has_the_figures_of_export_json(
    folder: Path, entries: list[dict[str, Any]]
) -> None:
    text = (folder / "README.md").read_text("utf-8")
    for entry in entries:
        assert entry["sha256"] in text
        assert f"{100 * entry['agreement']:.2f}" in text


def test_cyclonedx_takes_the_bom(folder: Path) -> None:
    pytest.importorskip("cyclonedx", reason="needs the package cyclonedx-python-lib")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (folder / "bom.cdx.json").read_text("utf-8")
    check = JsonStrictValidator(SchemaVersion.V1_6)
    assert check.validate_str(text) is None
    broken = json.loads(text) | {"bomFormat": "another"}
    assert check.validate_str(json.dumps(broken)) is not None  # the check checks


def test_the_bom_has_the_digests_of_the_files(folder: Path, entries: list[dict[str, Any]]) -> None:
    bom = json.loads((folder / "bom.cdx.json").read_text("utf-8"))
    parts = {part["name"]: part for part in bom["components"]}
    for entry in entries:
        (digest,) = parts[entry["path"]]["hashes"]
        assert digest == {"alg": "SHA-256", "content": entry["sha256"]}
    refs = {part["bom-ref"] for part in bom["components"]}
    assert set(bom["dependencies"][0]["dependsOn"]) == refs
    uuid.UUID(bom["serialNumber"].removeprefix("urn:uuid:"))


def test_the_same_files_give_the_same_bom(entries: list[dict[str, Any]], tiny_run: Run) -> None:
    one, two = (ml_bom(tiny_run, entries, "tiny", "1", None) for _ in range(2))
    assert one == two
    other = [entries[0] | {"sha256": "1" * 64}]
    assert ml_bom(tiny_run, other, "tiny", "1", None)["serialNumber"] != one["serialNumber"]


def test_neither_tells_of_this_machine(folder: Path, tiny_run: Run) -> None:
    for name in ("README.md", "bom.cdx.json"):
        text = (folder / name).read_text("utf-8")
        words = (str(tiny_run.folder), str(folder), str(Path.home()), socket.gethostname())
        assert [word for word in words if word in text] == [], name
        if len(getpass.getuser()) > 4:
            assert getpass.getuser() not in text


def test_a_readme_of_somebody_else_stays(
    tmp_path: Path, entries: list[dict[str, Any]], tiny_run: Run
) -> None:
    text = model_card(tiny_run, entries, "tiny", "1", None)
    assert 'license: "unknown"' in text
    assert write_card(tmp_path, text) is not None
    assert write_card(tmp_path, text) is not None  # its own may be replaced
    (tmp_path / "README.md").write_text("# Mine\n", encoding="utf-8")
    assert write_card(tmp_path, text) is None
    assert (tmp_path / "README.md").read_text("utf-8") == "# Mine\n"
