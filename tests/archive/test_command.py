"""`btc-edge archive`: what it says, refuses and ends with. Its workers are another test's."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.archive import engine
from edge_runtime.archive.engine import Summary
from edge_runtime.archive.manifest import Manifest
from edge_runtime.archive.rows import KEY, ClassifierSettings
from edge_runtime.archive.sources import Source
from edge_runtime.commands.main import command
from edge_runtime.errors import UsageError
from edge_runtime.model.backends import BACKENDS
from tests.archive.conftest import answer, write_files, zip_of
from tests.test_schemas import SCHEMAS, assert_wrong_types_fail, problems

pq = pytest.importorskip("pyarrow.parquet")

Run = Callable[..., Result]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    files = {f"{i}.jpg": encode(draw_slice(i)) for i in range(5)}
    return write_files(tmp_path / "in", files | {"n.txt": b"n"})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, whose workers are a loop; `did` is what that was asked for."""

    def work(
        manifest: Manifest, source: Source, settings: ClassifierSettings, **how: Any
    ) -> Summary:
        missing = manifest.missing()
        call.did = {"missing": missing, **how}  # type: ignore[attr-defined]
        answer(settings.open(), source, manifest, missing)
        return Summary(len(missing), 0, 0, 1.0)

    def call(*words: object, code: int = 0) -> Result:
        done = CliRunner().invoke(command, ["archive", *map(str, words)])
        found = done.exception.exit_code if isinstance(done.exception, UsageError) else None
        assert (found or done.exit_code) == code, (done.output, done.exception)
        return done

    monkeypatch.setattr(engine, "run", work)
    return call


def test_a_run_and_the_next_one(run: Run, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (pictures, "--out", out, "--shard-size", 2, "--format", "json")
    first = run(*words, "--workers", 3, "--memory", 700, "--address", "auto")
    wanted = {"files": 5, "shards": 3, "missing": 0, "damaged": 0, "rows": 5, "errors": 0}
    assert json.loads(first.stdout).items() >= {**wanted, "made": 3}.items()
    assert "passed over 1 file that is no image" in first.stderr
    assert "Research use only" in first.stderr
    assert (run.did["workers"], run.did["memory"]) == (3, 700 << 20)
    assert run.did["address"] == "auto"
    second = run(*words)
    assert json.loads(second.stdout).items() >= {**wanted, "made": 0}.items()
    (out / "shards" / "00000001.parquet").unlink()
    third = run(*words)
    assert json.loads(third.stdout).items() >= {**wanted, "made": 1}.items()
    assert "shards         3\n" in run(pictures, "--out", out).stdout


def test_nothing_is_written_beside_out(run: Run, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()  # as where another file system is mounted
    run(pictures, "--out", tmp_path / "results")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "results"}
    found = {path.name for path in (tmp_path / "results").iterdir()}
    assert found == {"manifest.json", "manifest", "shards", "unfinished"}


def test_relative_words_mean_the_same_to_workers(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = engine.run

    def elsewhere(*words: Any, **how: Any) -> Summary:
        monkeypatch.chdir("/")
        return work(*words, **how)

    monkeypatch.setattr(engine, "run", elsewhere)
    done = run("in", "--out", "out", "--format", "json")
    assert json.loads(done.stdout)["rows"] == 5
    assert (tmp_path / "out" / "shards" / "00000000.parquet").is_file()


def test_errors_end_with_code_1_each_time(run: Run, pictures: Path, tmp_path: Path) -> None:
    write_files(pictures, {"bad.jpg": b"", "z.zip": zip_of({"a.txt": b"", "b.jpg": b"x"})})
    words = (pictures, "--out", tmp_path / "out")
    first, second = (run(*words, code=1) for _ in range(2))
    for done in (first, second):
        assert "errors         2\n" in done.stdout
        assert "z.zip: passed over 2 files" in done.stderr
    assert "passed over 1 file that is no image: 1 .txt, such as n.txt" in first.stderr


def test_a_damaged_shard_is_told_and_made_again_once_it_is_gone(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    words = (pictures, "--out", tmp_path / "out", "--format", "json")
    run(*words)
    shard = tmp_path / "out" / "shards" / "00000000.parquet"
    shard.write_bytes(b"PAR1")
    done = run(*words, code=1)
    assert f"{shard}: damaged" in done.stderr
    assert json.loads(done.stdout)["damaged"] == 1
    shard.unlink()
    run(*words)


def test_damage_in_the_middle_of_a_shard_is_told(run: Run, pictures: Path, tmp_path: Path) -> None:
    words = (pictures, "--out", tmp_path / "out")
    run(*words)
    shard = tmp_path / "out" / "shards" / "00000000.parquet"
    data = bytearray(shard.read_bytes())
    data[60:90] = bytes(30)
    shard.write_bytes(data)
    assert f"{shard}: damaged" in run(*words, code=1).stderr


ROWS = {"rows": 5, "errors": 0, "passed_over": []}


@pytest.mark.parametrize(
    "says",
    [
        b"[" * 200_000,
        *(json.dumps(ROWS | more).encode() for more in (
            {"rows": -5}, {"rows": 6}, {"rows": "5"}, {"rows": float("inf")}, {"errors": 1},
            {"errors": 1e300}, {"passed_over": "abc"}, {"passed_over": [{}]},
        )),
    ],
)  # fmt: skip
def test_a_shard_is_not_believed_what_it_says(
    run: Run, pictures: Path, tmp_path: Path, says: bytes
) -> None:
    words = (pictures, "--out", tmp_path / "out")
    run(*words)
    shard = tmp_path / "out" / "shards" / "00000000.parquet"
    table = pq.read_table(shard)
    if says.startswith(b"{"):
        own = json.loads(table.schema.metadata[KEY]) | json.loads(says)
        says = json.dumps(own).encode()
    pq.write_table(table.replace_schema_metadata({KEY: says}), shard)
    done = run(*words, code=1)
    assert f"{shard}: damaged" in done.stderr
    assert "rows           0\n" in done.stdout


def test_a_file_among_the_shards_that_is_none_is_told(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    words = (pictures, "--out", tmp_path / "out")
    run(*words)
    shards = tmp_path / "out" / "shards"
    copy = shards / "00000099.parquet"  # whose rows would be there twice
    copy.write_bytes((shards / "00000000.parquet").read_bytes())
    assert f"{copy}: no shard of this archive" in run(*words, code=1).stderr
    copy.unlink()
    run(*words)


def test_a_run_whose_manifest_was_replaced_meanwhile_fails(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "out", engine.run
    run(pictures, "--out", tmp_path / "other", "--min-confidence", 0.9)

    def meanwhile(*words: Any, **how: Any) -> Summary:
        shutil.copy(tmp_path / "other" / "manifest.json", out)
        return work(*words, **how)

    monkeypatch.setattr(engine, "run", meanwhile)
    done = run(pictures, "--out", out, code=1)
    assert "another run was begun there" in str(done.exception)


def test_a_run_from_another_folder_answers_the_same_files(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_files(tmp_path / "other", {"0.jpg": b"another", "1.jpg": b"others"})
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text("0.jpg\n1.jpg\n")
    for source, again in ((listed, listed), ("0.jpg", "../in/0.jpg")):
        monkeypatch.chdir(pictures)
        run(source, "--out", out)
        (out / "shards" / "00000000.parquet").unlink()
        monkeypatch.chdir(other)
        assert "goes on with the" in run(again, "--out", out).stderr
        shutil.rmtree(out)


def test_a_list_that_became_a_folder_is_another_source(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_text(f"{pictures}\n")
    run(source, "--out", tmp_path / "out")
    source.unlink()
    pictures.rename(source)
    assert "begun with form" in str(run(source, "--out", tmp_path / "out", code=2).exception)


def test_a_dry_run_tells_and_writes_nothing(run: Run, pictures: Path, tmp_path: Path) -> None:
    write_files(pictures, {"z.zip": zip_of({"b.jpg": encode(draw_slice(1))}), "e.png": b""})
    before = sorted(tmp_path.rglob("*"))
    how = ("--dry-run", "--shard-size", 3, "--rate", 0.5, "--workers", 2, "--max-mib", 1)
    done = run(pictures, "--out", tmp_path / "out", *how, "--format", "json")
    plan = json.loads(done.stdout)
    sizes = [path.stat().st_size for path in pictures.iterdir() if path.suffix != ".txt"]
    assert plan == {
        "files": 7, "bytes": sum(sizes), "largest": max(sizes), "shards": 3, "missing": 3,
        "kinds": {"jpeg": 5, "png": 1, "zip": 1}, "worker_memory": (512 + 1 + 128) << 20,
        "passed_over": [f"{pictures}: passed over 1 file that is no image: 1 .txt, such as n.txt"],
        "hours": round(7 / 0.5 / 2 / 3600, 2),
    }  # fmt: skip
    assert "kinds          5 jpeg, 1 png, 1 zip\n" in run(pictures, "--dry-run").stdout
    assert sorted(tmp_path.rglob("*")) == before
    run(pictures, "--out", tmp_path / "out", "--shard-size", 3, code=1)
    again = run(pictures, "--out", tmp_path / "out", "--dry-run", "--format", "json")
    assert (json.loads(again.stdout)["shards"], json.loads(again.stdout)["missing"]) == (3, 0)


def test_all_json_that_is_written_keeps_its_schema(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    write_files(pictures, {"bad.jpg": b"", "z.zip": zip_of({"a.txt": b"", "b.jpg": b"x"})})
    out = tmp_path / "out"
    words = (pictures, "--out", out, "--shard-size", 9, "--format", "json")
    written = {"archive-plan": [run(*words, "--dry-run", *rate) for rate in ((), ("--rate", 3))]}
    written["archive-summary"] = [run(*words, code=1)]
    documents = {
        name: [json.loads(done.stdout) for done in ended] for name, ended in written.items()
    }
    documents["archive-manifest"] = [json.loads((out / "manifest.json").read_bytes())]
    shard = pq.read_schema(out / "shards" / "00000000.parquet")
    documents["archive-shard"] = [json.loads(shard.metadata[KEY])]
    for name, shapes in documents.items():
        for shape in shapes:
            assert problems(name, shape) == []
            assert_wrong_types_fail(name, shape)
            for changed in with_other_fields(shape):
                assert problems(name, changed)


def with_other_fields(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """It, each time with a field too few or too many: of its own, its settings, its first part."""
    for inner in filter(None, (document, document.get("settings"), *document.get("parts", ())[:1])):
        whole = dict(inner)
        for field in whole:
            del inner[field]
            yield document
            inner |= whole
        inner["foreign"] = 1
        yield document
        del inner["foreign"]


def test_the_schema_of_the_manifest_knows_the_interpreters() -> None:
    schema = json.loads((SCHEMAS / "archive-manifest.schema.json").read_text("utf-8"))
    settings = schema["properties"]["settings"]["properties"]
    assert settings["backend"]["enum"] == list(BACKENDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{in}"], "give --out DIR"),
        (["{in}", "--out", "{out}", "--rate", "3"], "--rate goes with --dry-run"),
        (["{in}", "--out", "{in}/out"], "lies within SOURCE"),
        (["{in}", "--out", "{in}"], "lies within SOURCE"),
        (["{in}", "--out", ""], "--out is empty"),
        (["{in}/none", "--out", "{out}"], "no such folder, list or address"),
        (["{in}", "--out", "s3://a:b@c/d"], "an address with a credential"),
        (["ftp://a/b", "--out", "{out}"], "ftp:// is not supported"),
    ],
)
def test_what_does_not_go_together_is_refused(
    run: Run, pictures: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    filled = [word.format(**{"in": pictures, "out": tmp_path / "out"}) for word in words]
    done = run(*filled, code=2)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_rate_that_gives_no_number_of_hours_is_refused(run: Run, pictures: Path) -> None:
    assert "--rate" in run(pictures, "--dry-run", "--rate", "1e-320", code=2).stderr


def test_another_model_is_refused(run: Run, pictures: Path, tmp_path: Path) -> None:
    words = (pictures, "--out", tmp_path / "out")
    run(*words)
    for more in (["--min-confidence", "0.9"], ["--shard-size", "9"], ["--max-pixels", "99"]):
        done = run(*words, *more, code=2)
        assert "run with the same, or name another place" in str(done.exception)


@pytest.mark.parametrize("package", ["ray", "pyarrow"])
def test_a_missing_package_is_named(
    run: Run, pictures: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "edge_runtime.commands.archive.find_spec",
        lambda name: None if name == package else find(name),
    )
    done = run(pictures, "--out", tmp_path / "out", code=2)
    assert str(done.exception) == f"needs the package {package}: pip install 'btc-edge[ray]'"


def test_help_is_light_and_the_shell_completes_it() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from edge_runtime.commands.main import command\n"
        "done = CliRunner().invoke(command, ['archive', '--help'])\n"
        "heavy = {'numpy', 'cv2', 'ray', 'pyarrow'} & sys.modules.keys()\n"
        "print(done.exit_code, '--dry-run' in done.output, sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0 True []\n", done.stderr
    words = {"_BTC_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": "btc-edge arc", "COMP_CWORD": "1"}
    shell = CliRunner().invoke(command, [], prog_name="btc-edge", env=words)
    assert shell.output == "plain,archive\n"


@pytest.mark.slow
def test_the_command_over_ray(pictures: Path, tmp_path: Path) -> None:
    words = ["archive", str(pictures), "--out", str(tmp_path / "out"), "--workers", "1"]
    line = [str(Path(sys.executable).with_name("btc-edge")), *words, "--format", "json"]
    for made in (1, 0):
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout).items() >= {"made": made, "rows": 5, "errors": 0}.items()
