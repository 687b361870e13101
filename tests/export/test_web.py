"""`btc-export --web`: what is written, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime.errors import ExitCode, UsageError
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import pack_model, parse_model
from edge_runtime.model.load import bundled_model, read_model
from export.commands.export import _beside, command
from export.formats import FORMATS
from export.tflite.flatbuffer import read_tflite
from export.tflite.float_outputs import with_float_outputs
from export.web.inline import inlined
from export.web.site import check_preprocess, web_model, write_single, write_site

RUNTIME = pytest.importorskip("btc_edge_web", reason="no btc-edge-web: pip install ./web")


def run(*words: Any) -> tuple[int, str]:
    """Exit code and what stands on stderr, as the command's entry point gives them."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    if isinstance(result.exception, UsageError):
        return ExitCode.USAGE, str(result.exception)
    assert result.exception is None, result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both pages of the bundled model."""
    out = tmp_path_factory.mktemp("pages")
    assert run("--web", "--web-single-file", "--out", out)[0] == ExitCode.OK
    return out


def test_floats_behind_integers_are_what_the_device_computes() -> None:
    file = read_model()
    graph = with_float_outputs(file.graph)
    told = read_tflite(graph)
    assert set(told.output_types) == {"FLOAT32"}
    assert told.input_types == ("UINT8",)
    before = read_tflite(file.graph)
    assert told.ops == {**before.ops, "DEQUANTIZE": len(before.outputs)}
    made = parse_model(pack_model(graph, file.info, "tflite"))
    old, new = open_graph(file, "litert"), open_graph(made, "litert")
    rng = np.random.default_rng(0)
    for _ in range(5):
        pixels = rng.integers(0, 256, (96, 96), np.uint8)
        assert old.run(pixels).tobytes() == new.run(pixels).tobytes()
        for one, other in ((old.features(), new.features()), (old.class_maps(), new.class_maps())):
            assert one is not None
            assert other is not None
            assert one.tobytes() == other.tobytes()


def test_a_graph_of_floats_stays_as_it_is() -> None:
    once = with_float_outputs(read_model().graph)
    assert read_tflite(with_float_outputs(once)).ops == read_tflite(once).ops


def test_the_folder_holds_all_that_the_page_loads(written: Path) -> None:
    folder = written / "brain-mri-int8-web"
    names = {path.name for path in folder.iterdir()}
    page = (folder / "index.html").read_text("utf-8")
    assert set(re.findall(r'(?:src|href)="([\w.-]+)"', page)) <= names
    for path in folder.glob("*.js"):
        imported = re.findall(r'^import .* from "([^"]+)";$', path.read_text("utf-8"), re.M)
        assert {name.removeprefix("./") for name in imported} <= names, path.name
        asked = re.findall(r'asset\("([\w.-]+)"\)', path.read_text("utf-8"))
        assert set(asked) <= names, path.name
    assert "unsafe-eval'" not in page.replace("'wasm-unsafe-eval'", "")
    assert "unsafe-inline" not in page
    assert "Research use only; not a diagnosis" in page


def test_the_model_file_is_one_that_devices_run_too(written: Path) -> None:
    model = read_model(written / "brain-mri-int8-web" / "model.tflite")
    about = json.loads((written / "brain-mri-int8-web" / "web.json").read_text("utf-8"))
    assert model.sha256 == about["model_sha256"]
    assert about["made_from"] == {"model": read_model().tag, "sha256": read_model().sha256}
    assert model.info.thresholds == read_model().info.thresholds
    assert model.sha256 != read_model().sha256


def test_the_single_file_may_run_its_own_scripts_only(written: Path) -> None:
    page = (written / "brain-mri-int8-web.html").read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    styles = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert (len(scripts), len(styles)) == (2, 1)
    for text in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert "connect-src 'none'" in policy[1]
    assert not re.search(r'\b(?:src|href)="(?!data:)', page.replace(scripts[0], ""))


def test_licences_stand_in_the_page(written: Path) -> None:
    page = (written / "brain-mri-int8-web.html").read_text("utf-8")
    for words in ("Independent JPEG", "Linus Unneb", "Apache License", "CC-BY-SA-4.0", "Kaggle"):
        assert words in page


def test_what_a_model_says_of_itself_is_no_markup(tmp_path: Path) -> None:
    """Its words reach the page escaped, or within the base64 of the file."""
    file = read_model()
    evil = '</script><img src=x onerror="alert(1)">{policy}<!--'
    old = file.info.labels[0]
    labels = (f"{evil}\u00a0".strip(), *file.info.labels[1:])
    renamed = {
        name: {labels[0] if key == old else key: value for key, value in fields.items()}
        for name in ("thresholds", "target_error", "error_bound")
        if (fields := getattr(file.info, name)) is not None
    }
    info = replace(
        file.info, name=evil, labels=labels, license=f"{evil}\u2028",
        data={**file.info.data, "citation": evil}, study=None, rules=None, **renamed,
    )  # fmt: skip
    hostile = parse_model(pack_model(file.graph, info, "tflite"))
    write_single(tmp_path / "page.html", hostile)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert evil not in page
    assert "<img src=x" not in page
    assert page.count("&lt;/script&gt;&lt;img src=x") == 2  # licence and citation
    assert "{policy}" in page, "what stands in a word is not filled in"
    write_site(tmp_path / "site", hostile)
    assert "<img src=x" not in (tmp_path / "site" / "index.html").read_text("utf-8")


def test_pages_are_the_same_each_time(written: Path, tmp_path: Path) -> None:
    run("--web", "--web-single-file", "--out", tmp_path)
    for path in sorted(written.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes()


def test_a_finished_file_takes_no_other_option(tmp_path: Path) -> None:
    model = bundled_model()
    assert run(model, "--web", "--out", tmp_path)[0] == ExitCode.OK
    assert (tmp_path / "brain-mri-int8-web" / "index.html").is_file()
    for words, said in (
        ((model, "--web"), "--out FOLDER"),
        (("--web",), "--out FOLDER"),
        ((model, "--web", "--int8", "--out", tmp_path), "--int8"),
        ((model, "--out", tmp_path), "add --web"),
    ):
        code, told = run(*words)
        assert (code, said in told) == (ExitCode.USAGE, True), told


def test_a_run_that_the_page_cannot_prepare_slices_for(tiny_run: Any, tmp_path: Path) -> None:
    code, told = run(tiny_run.folder, "--web", "--out", tmp_path)
    assert code == ExitCode.USAGE
    assert "--resize pyramid" in told
    assert list(tmp_path.iterdir()) == []


def test_only_graphs_of_integers_become_pages(tiny_run: Any) -> None:
    from export.exporter import Exporter, ExportSettings

    exporter = Exporter(tiny_run, ExportSettings(out=tiny_run.folder))
    plain = parse_model(exporter.packed(FORMATS["float32"], None))
    with pytest.raises(UsageError, match="--int8"):
        web_model(plain)
    with pytest.raises(UsageError, match="--denoise"):
        check_preprocess(plain.info.preprocess)


def test_without_the_runtime_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "btc_edge_web", None)
    code, told = run("--web", "--out", tmp_path)
    assert code == ExitCode.USAGE
    assert "needs the package btc-edge-web" in told
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_is_not_whole_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(RUNTIME, "FOLDER", tmp_path)
    code, told = run("--web", "--out", tmp_path / "out")
    assert code == ExitCode.USAGE
    assert "pip install ./web again" in told


def test_modules_become_one_script_in_their_order() -> None:
    modules = {
        "a.js": 'import { b, c } from "./b.js";\nexport const a = b + c;\n',
        "b.js": 'import { c } from "./c.js";\nexport function b() { return c; }\nexport { c };\n',
        "c.js": "const hidden = 1;\nexport const c = hidden;\nexport class D {}\n",
    }
    script = inlined(modules, "a.js")
    places = [script.index(f"const module_{name} = ") for name in "cba"]
    assert places == sorted(places)
    assert "return {c, D};" in script
    assert "const { b, c } = module_b;" in script
    assert not re.search(r"^(import|export)\b", script, re.M)


@pytest.mark.parametrize(
    "text",
    ['import all from "./a.js";', 'import * as a from "./b.js";', "export default 1;",
     "export { a as b };", 'import { a } from "elsewhere";'],
)  # fmt: skip
def test_other_forms_of_modules_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="of a form that is not known"):
        inlined({"main.js": text, "a.js": ""}, "main.js")


def test_modules_in_a_circle_are_refused() -> None:
    modules = {"a.js": 'import { b } from "./b.js";', "b.js": 'import { a } from "./a.js";'}
    with pytest.raises(ValueError, match=r"in a circle: a.js b.js a.js"):
        inlined(modules, "a.js")


def test_pages_stand_beside_a_file_that_passed(tmp_path: Path) -> None:
    path = tmp_path / "mine-int8.tflite"
    path.write_bytes(bundled_model().read_bytes())
    options = {"web": True, "web_single_file": True, "sign": None, "c_array": False}
    entry: Any = SimpleNamespace(
        gate=SimpleNamespace(passed=False), format=FORMATS["int8"], path=path
    )
    _beside(entry, options)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    entry.gate.passed, entry.format = True, FORMATS["float32"]
    _beside(entry, options)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    entry.format = FORMATS["int8"]
    _beside(entry, options)
    assert (tmp_path / "mine-int8-web" / "index.html").is_file()
    assert (tmp_path / "mine-int8-web.html").is_file()
