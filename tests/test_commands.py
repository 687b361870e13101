"""What the installed commands say: help in groups, the nearest word, versions, what comes next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest

import edge_runtime
from edge_runtime.commands.click_types import (
    OTHER,
    Choice,
    Command,
    Commands,
    GroupedCommand,
    Option,
)
from edge_runtime.errors import did_you_mean
from edge_runtime.model.load import bundled_model
from export.commands.export import command as export_command
from trainer.audit.examine import Audit
from trainer.commands.audit import protocol_option
from trainer.commands.train import train_command
from trainer.commands.train_options import after_training
from trainer.run import Run
from trainer.synthetic.phantoms import write_phantoms

BIN = Path(sys.executable).parent
COMMANDS = [
    ("btc-edge",), ("btc-edge", "classify"), ("btc-edge", "info"), ("btc-edge", "benchmark"),
    ("btc-edge", "verify"),
    ("btc-train",), ("btc-evaluate",), ("btc-audit",), ("btc-export",),
    ("btc-data",), ("btc-data", "check"), ("btc-data", "cheng"), ("btc-data", "fetch"),
    ("btc-data", "join"), ("btc-data", "volumes"),
]  # fmt: skip
GROUPED = {"btc-train": train_command, "btc-export": export_command}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("my data") / "slices.zip"
    write_phantoms(path, per_class=12, testing=0.25, seed=4)
    path.with_suffix(".toml").write_text('license = "CC0 1.0"\n')
    return path


def tool(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [str(BIN / str(words[0])), *map(str, words[1:])]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=cwd)


def on_a_terminal(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout, and the last line on stderr where that is a terminal."""
    import pty

    ours, theirs = pty.openpty()
    line = [str(BIN / str(words[0])), *map(str, words[1:])]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not piece:
                break
            said += piece
        assert process.stdout is not None
        shown = process.stdout.read()
    os.close(ours)
    last = said.decode().splitlines()[-1]
    return process.returncode, shown, last.removeprefix("\x1b[?25h")  # rich shows the cursor again


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_version_and_a_short_help(words: tuple[str, ...]) -> None:
    done = tool(*words, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{words[0]}, version {edge_runtime.__version__}\n"
    short, long = tool(*words, "-h"), tool(*words, "--help")
    assert short.returncode == 0
    assert short.stdout == long.stdout
    assert "--version" in short.stdout


@pytest.mark.parametrize("name", GROUPED)
def test_the_short_help_fits_a_screen_and_the_long_one_has_every_option(name: str) -> None:
    options = [p for p in GROUPED[name].params if isinstance(p, click.Option) and not p.hidden]
    short, long = tool(name, "--help").stdout, tool(name, "--help-all").stdout
    assert len(short.splitlines()) <= 48
    shown = [p for p in options if not isinstance(p, Option) or p.common]
    assert f"{len(options) - len(shown)} more options: {name} --help-all" in short
    for option in options:
        assert (f"  {option.opts[0]} " in short) == (option in shown)
        assert long.count(f"\n  {option.opts[0]} ") == 1
    titles = [line[:-1] for line in long.splitlines() if line[:1].isalpha() and line[-1] == ":"]
    assert len(titles) == len(set(titles)) > 5
    assert titles[-1] == OTHER
    assert "--max-error" not in long, "a former name"
    others = long.partition(f"{OTHER}:")[2]
    assert sum(line.startswith("  -") for line in others.splitlines()) == 3


def test_options_that_two_commands_share_are_one() -> None:
    mine, theirs = ({p.name: p for p in c.params} for c in GROUPED.values())
    for name in ("target_error", "max_error", "confidence", "name", "model_version"):
        assert mine[name].opts == theirs[name].opts
        assert vars(mine[name].type) == vars(theirs[name].type)
        assert mine[name].multiple == theirs[name].multiple


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("btc-train {data} --epochss 3", "'--epochs'"),
        ("btc-train {data} --tumor-free a", "'--tumour-free'"),
        ("btc-train {data} --recipe robst", "'robust'"),
        ("btc-train {data} --network clasic", "'classic'"),
        ("btc-train {data} --model random_forest", "'random-forest'"),
        ("btc-train {data} --protocol oficial", "'official'"),
        ("btc-train {data} --protocol Grouped", "'grouped'"),
        ("btc-train {data} --model knn --features hgo", "'hog'"),
        ("btc-train {data} --model knn --features glcm,lpb", "'lbp'"),
        ("btc-train {data} --model knn --features hog --tumour-free nottumor", "'notumor'"),
        ("btc-train {data} --model knn --features hog --target-error gloima=0.1", "'glioma'"),
        ("btc-train {data} --model knn --features hog --groups {groups} --protocol source:homes",
         "'home'"),
        ("btc-audit {data} --format jsn", "'json'"),
        ("btc-audit {data} --grups x", "'--groups'"),
        ("btc-evaluate {model} {data} --split tsting", "'testing'"),
        ("btc-export --in8", "'--int8'"),
        ("btc-export --onx-int8", "'--onnx-int8'"),
        ("btc-edge clasify x", "'classify'"),
        ("btc-edge benchmrk", "'benchmark'"),
        ("btc-edge verfy x", "'verify'"),
        ("btc-edge verify x --format jsn", "'json'"),
        ("btc-edge classify x --format jsnl", "'jsonl'"),
        ("btc-edge classify x --plane axal", "'axial'"),
        ("btc-edge info --format jason", "'json'"),
        ("btc-edge benchmark --format mardown", "'markdown'"),
        ("btc-edge benchmark --backend onnx-runtime", "'onnxruntime'"),
    ],
)  # fmt: skip
def test_a_typo_is_answered_with_the_nearest(
    line: str, nearest: str, data: Path, tmp_path: Path
) -> None:
    groups = tmp_path / "groups.csv"
    names = zipfile.ZipFile(data).namelist()
    groups.write_text("\n".join(["path,group,source", *(f"{n},{n},home" for n in names), ""]))
    places = {"data": data, "groups": groups, "model": bundled_model()}
    words = [word.format(**places) for word in line.split()]
    if words[0] == "btc-train":
        words += ["--out", str(tmp_path / "run"), "--no-cache"] if "knn" in words else []
    done = tool(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"{words[0]}: ")
    assert nearest in said.lower().partition("; did you mean ")[2]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tested", "near_duplicates", "words"),
    [(0, 0, ("--protocol", "grouped")), (9, 1, ("--protocol", "grouped")), (9, 0, ())],
)
def test_a_test_side_that_leaks_is_not_the_next_to_be_measured(
    tested: int, near_duplicates: int, words: tuple[str, ...]
) -> None:
    leak = {"test_images": tested, "with_near_duplicate_in_training": near_duplicates}
    assert protocol_option(Audit({"leak": leak}, [])) == words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "cnn"}, ["run", "--int8"]),
        ({"model": "cnn", "folds": 5}, ["run/fold-1", "--int8"]),
        ({"model": "knn", "training": {"features": ["hog", "glcm"]}}, ["run", "--onnx"]),
        ({"model": "svm", "training": {"features": ["deep"]}}, ["run", "--onnx"]),
        ({"model": "svm", "training": {"features": ("deep",)}}, ["run", "--onnx"]),
        ({"model": "svm", "training": {"features": ["deep", "hog"]}}, None),
        ({"model": "svm", "training": {"features": ["gabor"]}}, None),
    ],
)
def test_a_run_is_exported_next_where_a_device_can_take_it(
    settings: dict[str, Any], words: list[str] | None
) -> None:
    found = after_training(Run("run", settings))
    assert (found and list(map(str, found))) == (words and ["btc-export", *words])


def test_what_is_near_nothing_is_answered_with_nothing() -> None:
    assert did_you_mean("xyz", ["official", "grouped"]) == ""
    assert did_you_mean("HOG", ["hog", "lbp"]) == "; did you mean 'hog'?"
    assert did_you_mean("a", []) == ""
    assert "did you mean" not in tool("btc-edge", "classify", "--format", "xml", "x").stderr


def test_a_former_word_is_taken_and_not_told() -> None:
    choice = Choice(["edge", "classic"], former={"seed": "classic"})
    assert choice.convert("seed", None, None) == "classic"
    assert choice.convert("edge", None, None) == "edge"
    with pytest.raises(click.BadParameter) as caught:
        choice.convert("seeds", None, None)
    assert "'seed'" not in caught.value.message
    for words in (("--help",), ("--help-all",)):
        assert "seed]" not in tool("btc-train", *words).stdout


def test_a_hidden_former_name_is_not_offered() -> None:
    for name, command in GROUPED.items():
        with pytest.raises(click.NoSuchOption) as caught:
            command.make_context(name, ["--max-eror", "0.1"])
        assert "--max-error" not in caught.value.format_message()
        assert "--max-error" in {word for p in command.params for word in p.opts}, "it is taken"
    command = Command("one", params=[click.Option(["--first"]), click.Option(["-s"])])
    for word, near in (("--frist", ["--first"]), ("-x", []), ("--zzz", [])):
        with pytest.raises(click.NoSuchOption) as caught:
            command.make_context("one", [word])
        assert (caught.value.possibilities or []) == near


def test_every_kind_and_network_is_a_choice() -> None:
    from trainer.models.kinds import KINDS
    from trainer.models.networks import NETWORKS

    choices = {p.name: p.type for p in GROUPED["btc-train"].params}
    assert list(choices["model"].choices) == ["cnn", *KINDS]  # type: ignore[attr-defined]
    assert list(choices["network"].choices) == list(NETWORKS)  # type: ignore[attr-defined]


def test_completion_is_not_told_of_typos() -> None:
    group = Commands("tool", commands={"one": click.Command("one")})
    with group.make_context("tool", ["two"], resilient_parsing=True) as context:
        assert group.resolve_command(context, ["two"])[1] is None


def test_a_command_without_rare_options_says_of_none() -> None:
    plain = GroupedCommand("plain", params=[Option(["--one"], group="A", common=True)])
    with plain.make_context("plain", []) as context:
        assert "more options" not in plain.get_help(context)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_the_next_command_is_told_to_people(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "the audit"
    _, shown, last = on_a_terminal("btc-audit", data, "--out", out, "--format", "json")
    assert last == f"next: btc-train '{data}' --groups '{out}/groups.csv'"
    assert "next:" not in shown
    done = tool("btc-audit", data, "--out", out)
    assert "next:" not in done.stdout + done.stderr
    last = on_a_terminal("btc-audit", data, "--no-card", "--out", out, "--format", "json")[2]
    assert last.endswith(" --no-card"), "the card would be read after all"

    run = tmp_path / "run"
    words = ("--model", "knn", "--features", "histogram", "--size", "32", "--no-cache")
    _, shown, last = on_a_terminal("btc-train", data, "--out", run, *words)
    assert last == f"next: btc-export {run} --onnx"
    assert "next:" not in shown
    code, shown, last = on_a_terminal("btc-export", run, "--onnx")
    file = run / "export" / "brain-mri-onnx.onnx"
    assert (code, last) == (0, f"next: btc-edge benchmark --model {file}")
    assert "next:" not in shown
    about = json.loads(tool("btc-edge", "info", "--model", file, "--format", "json").stdout)
    assert about["data"]["license"] == "CC0 1.0", "of the data's card"
    assert about["license"] is None, "the model's own"
    _, shown, last = on_a_terminal("btc-evaluate", run, data, "--format", "json")
    assert last == f"next: btc-export {run} --onnx"
    assert "next:" not in shown
    code, shown, last = on_a_terminal("btc-export", "--verify", bundled_model())
    assert last == f"next: btc-edge benchmark --model {bundled_model()}"
    assert (code, "next:" in shown) == (0, False)
