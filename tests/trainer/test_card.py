"""Data cards: `btc-train FOLDER` finds all that belongs to the data; what a card may not say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import DataError, UsageError
from trainer.commands.audit import audit_command
from trainer.commands.evaluate import evaluate_command
from trainer.commands.train import train_command
from trainer.data.card import (
    ABOUT,
    MAX_BYTES,
    CardText,
    Source,
    card_text,
    find_card,
    written_card,
)
from trainer.synthetic.phantoms import write_phantoms

BIN = Path(sys.executable).parent
KNN = ("--model", "knn", "--features", "histogram", "--size", "32", "--no-cache")
PHANTOMS = 'title = "Phantoms"\nlicense = "CC BY 4.0"\ncitation = "Nobody, 2026"\n'


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a zip, tables and a card that names them."""
    folder = tmp_path_factory.mktemp("described") / "set"
    folder.mkdir()
    write_phantoms(folder / "slices.zip", per_class=12, testing=0.25, seed=3)
    names = sorted(zipfile.ZipFile(folder / "slices.zip").namelist())
    groups = [f"{name},g{i},home" for i, name in enumerate(names)]
    (folder / "groups.csv").write_text("\n".join(["path,group,source", *groups, ""]))
    boxes = [f"{name},0.5,0.5,0.3,0.3" for name in names if "notumor" not in name]
    header = "path,x_center,y_center,width,height"
    (folder / "boxes.csv").write_text("\n".join([header, *boxes, ""]))
    (folder / "data.toml").write_text(
        'images = "slices.zip"\ngroups = "groups.csv"\nboxes = "boxes.csv"\n'
        f'tumour_free = ["notumor"]\n{PHANTOMS}'
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a card may name, without a card."""
    for name in ("images", "more"):
        (tmp_path / name).mkdir()
    for name in ("groups.csv", "boxes.csv"):
        (tmp_path / name).write_text("path\n")
    return tmp_path


def call(command: object, *words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)))  # type: ignore[arg-type]


def test_a_folder_names_all_that_belongs_to_it(folder: Path) -> None:
    (folder / "data.toml").write_text(
        'images = "images"\ngroups = "groups.csv"\nboxes = "./boxes.csv"\npartial = "more"\n'
        'partial_groups = "groups.csv"\ntumour_free = ["a", "b"]\nnotes = """two\nlines"""\n'
        + PHANTOMS
    )
    card = find_card(folder)
    assert card is not None
    assert card.files == {
        "images": folder / "images",
        "partial": folder / "more",
        "groups": folder / "groups.csv",
        "boxes": folder / "boxes.csv",
        "partial_groups": folder / "groups.csv",
    }
    assert card.tumour_free == ("a", "b")
    assert dict(card.about) == {
        "title": "Phantoms", "license": "CC BY 4.0", "citation": "Nobody, 2026",
    }  # fmt: skip


@pytest.mark.parametrize("line", ["# nothing\n", 'images = "."\n'])
def test_without_images_the_folder_is_meant(folder: Path, line: str) -> None:
    assert find_card(folder) is None
    (folder / "data.toml").write_text(line)
    card = find_card(folder)
    assert card is not None
    assert card.files["images"].samefile(folder)
    assert card.tumour_free is None


def test_the_card_of_a_zip(folder: Path) -> None:
    for name in ("one.zip", "two.zip"):
        zipfile.ZipFile(folder / name, "w").close()
    one, two = folder / "one.zip", folder / "two.zip"
    assert find_card(one) is None
    (folder / "data.toml").write_text('images = "one.zip"\ngroups = "groups.csv"\n')
    card = find_card(one)
    assert card is not None
    assert card.files["groups"] == folder / "groups.csv"
    assert find_card(two) is None, "the card is of another zip"
    (folder / "one.toml").write_text('boxes = "boxes.csv"\n')
    card = find_card(one)
    assert card is not None
    assert set(card.files) == {"images", "boxes"}, "the zip's own card goes before"
    (folder / "two.toml").write_text('images = "one.zip"\n')
    with pytest.raises(DataError, match=r"two.toml: images is one.zip, not two.zip"):
        find_card(two)


def test_toml_files_of_other_programs_lie_beside_a_zip(folder: Path) -> None:
    for name in ("tool.zip", "data.zip", "other.zip"):
        zipfile.ZipFile(folder / name, "w").close()
    tool, data, other = (folder / f"{name}.zip" for name in ("tool", "data", "other"))
    (folder / "tool.toml").write_text("[tool]\nx = 1\n")
    for foreign in ("[project]\nname = 1\n", "images = 3\nx = 1\n", "groups = 'x'\n", "# no\n"):
        (folder / "data.toml").write_text(foreign)
        assert find_card(other) is None
        assert find_card(tool) is None
    (folder / "data.toml").write_text('images = "tool.zip"\ntitle = "A"\n')
    card = find_card(tool)
    assert card is not None, "tool.toml is not in the way of it"
    assert dict(card.about) == {"title": "A"}
    assert find_card(data) is None, "its NAME.toml is the card of tool.zip"
    (folder / "data.toml").write_text('title = "B"\n')
    card = find_card(data)
    assert card is not None
    assert card.files == {"images": data}
    for wrong in ('images = "tol.zip"\n', 'images = "tool.zip"\ngrups = "x"\n'):
        (folder / "data.toml").write_text(wrong)
        with pytest.raises(DataError, match=r"no such file|did you mean"):
            find_card(tool)


def test_a_byte_order_mark_is_passed_over(folder: Path) -> None:
    (folder / "data.toml").write_bytes(b"\xef\xbb\xbf" + 'title = "A\u00a0ü"\r\n'.encode())
    card = find_card(folder)
    assert card is not None
    assert dict(card.about) == {"title": "A\u00a0ü"}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_link_is_what_it_leads_to(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "far.csv"
    elsewhere.write_text("path\n")
    (folder / "near.csv").symlink_to(elsewhere)
    (folder / "data.toml").write_text('groups = "near.csv"\n')
    card = find_card(folder)
    assert card is not None
    assert card.files["groups"] == folder / "near.csv"
    elsewhere.unlink()
    with pytest.raises(DataError, match=r"near\.csv"):
        find_card(folder)


WRONG = {
    'group = "groups.csv"': r"unknown key 'group'; did you mean 'groups'\?",
    "zzz = 1": "unknown key 'zzz'; there are images, groups, ",
    "[groups]\nx = 1": "groups is no text",
    "groups = 3": "groups is no text",
    "license = ['a']": "license is no text",
    "notes = 1979-05-27": "notes is no text",
    "tumour_free = 'notumor'": r"tumour_free is no list of texts",
    "tumour_free = [1]": r"tumour_free is no list of texts",
    'partial_groups = "groups.csv"': "partial_groups is the table of partial",
    'groups = "grups.csv"': "groups 'grups.csv': there is no such file;",
    'groups = ""': "groups '': there is no such file;",
    'groups = "images"': "groups 'images': there is no such file;",
    'partial = "nix"': "partial 'nix': there is no such file or folder;",
    f'groups = "{"x" * 5000}"': "there is no such file;",
    'groups = "a\\u0000b"': r"groups 'a\\x00b': there is no such file;",
    'groups = "../groups.csv"': "not inside the card's folder",
    'groups = "images/../groups.csv"': "not inside the card's folder",
    'groups = "..\\\\groups.csv"': "not inside the card's folder",
    'groups = "/etc/passwd"': "not inside the card's folder",
    'groups = "\\\\\\\\host\\\\share"': "not inside the card's folder",
    'groups = "C:groups.csv"': "not inside the card's folder",
    'images = "~/.."': "not inside the card's folder",
    'title = "a\\u001b[2Jb"': r"title has a character that does not show, '\\x1b'",
    'license = "a\\nb"': r"license has a character that does not show, '\\n'",
    'url = "a\\u202eb"': r"url has a character that does not show, '\\u202e'",
    'notes = "a\\nb\\u0007"': r"notes has a character that does not show, '\\x07'",
    'images = "images"\npartial = "."': "partial is the card's own folder: keep its slices in",
    "sources = 1": r"sources is no list of tables, as \[\[sources\]\] begins one",
    "[sources]\nname = 'a'": "sources is no list of tables",
    "[[sources]]\ntitle = 'a'": "a source without a name",
    "[[sources]]\nname = 1": "name is no text",
    "[[sources]]\nname = 'a'\nlicence = 'b'": (
        "unknown key 'licence' of a source; did you mean 'license'"
    ),
    '[[sources]]\nname = "a\\u001b"': r"name has a character that does not show",
    'made_by = "a\\nb"': r"made_by has a character that does not show",
    "groups": "not a TOML file: ",
    "x = " + "[" * 5000: "not a TOML file: ",
    "x = " + "9" * 5000: "not a TOML file: ",
    "\x1b[2J = 1": "not a TOML file: ",
    '"\\u001b[2J" = 1': r"unknown key '\\x1b\[2J'",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_card_is_one_line(folder: Path, text: str) -> None:
    (folder / "data.toml").write_text(text)
    with pytest.raises(DataError, match=WRONG[text]) as caught:
        find_card(folder)
    line = str(caught.value)
    assert "data.toml: " in line
    assert line.endswith("; mend it, or pass it over with --no-card")
    assert len(line) < 700
    assert "\x1b" not in line


lines = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=30
)


@given(
    sources=st.lists(st.builds(Source, *[lines] * 7), min_size=1, max_size=3),
    notes=st.text(st.sampled_from("aé\n\"\\ '#")),
)
def test_a_written_card_says_what_it_was_given(sources: list[Source], notes: str) -> None:
    text = CardText("btc-data join 1.2", tuple(sources), notes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slices").mkdir()
        (folder / "groups.csv").touch()
        files = {"images": "slices", "groups": "groups.csv"}
        (folder / "data.toml").write_text(written_card(files, ["notumor"], text), "utf-8")
        card = find_card(folder)
        assert card is not None
        assert card.sources == tuple(sources)
        assert card.files == {key: folder / value for key, value in files.items()}
        assert card.tumour_free == ("notumor",)
        assert set(card.about) == set(ABOUT)
        for key in ABOUT:
            assert all(getattr(source, key) in card.about[key] for source in sources)


def test_a_card_that_nothing_could_read_is_not_written() -> None:
    sources = tuple(Source(f"{i}", citation=f"{i}" * 2000) for i in range(20))
    with pytest.raises(DataError, match="card of 20 sources would be larger than the limit of 64"):
        written_card({}, [], CardText("", sources))
    assert written_card({}, [], CardText("", sources[:10]))


def test_what_sources_say_alike_is_said_once() -> None:
    text = CardText("", (Source("a", license="CC0"), Source("b"), Source("c", license="CC0")))
    assert text.joined("license") == "CC0"
    assert text.joined("url") == ""


def test_a_card_that_cannot_be_read(folder: Path) -> None:
    card = folder / "data.toml"
    card.write_bytes(b"title = '\xff'")
    with pytest.raises(DataError, match="not a TOML file"):
        find_card(folder)
    card.write_bytes(b"# " + b"x" * MAX_BYTES)
    with pytest.raises(DataError, match="larger than the limit of 64 KiB"):
        find_card(folder)
    card.unlink()
    card.mkdir()
    with pytest.raises(DataError, match=r"data\.toml"):
        find_card(folder)
    card.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(card)
        with pytest.raises(DataError, match="not a regular file"):
            find_card(folder)
        card.unlink()
        card.symlink_to(folder / "nowhere")
        with pytest.raises(DataError, match="no such file"):
            find_card(folder)


def test_a_training_takes_what_the_card_names(described: Path, tmp_path: Path) -> None:
    done = call(train_command, described, "--out", tmp_path / "run", *KNN)
    assert done.exit_code == 0, done.output
    said = done.stderr.splitlines()
    for line in (
        f"images: {described / 'slices.zip'} (data.toml)",
        f"groups: {described / 'groups.csv'} (data.toml)",
        f"boxes: {described / 'boxes.csv'} (data.toml)",
        "tumour_free: notumor (data.toml)",
    ):
        assert said.count(line) == 1
    settings = json.loads((tmp_path / "run/run.json").read_text())
    data = settings["data"]
    assert data["groups_given"] is True
    assert data["boxes"] == 36
    assert settings["tumour_free"] == ["notumor"]
    assert [data[key] for key in ("title", "license", "citation", "url")] == [
        "Phantoms", "CC BY 4.0", "Nobody, 2026", None,
    ]  # fmt: skip


def test_options_override_a_card(described: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text((described / "groups.csv").read_text().replace("home", "away"))
    words = ("--groups", other, "--tumour-free", "notumor", "--protocol", "source:home")
    done = call(train_command, described, "--out", tmp_path / "run", *KNN, *words)
    assert isinstance(done.exception, UsageError), "the table has no such source"
    assert "groups:" not in done.stderr
    assert "tumour_free:" not in done.stderr
    assert "boxes:" in done.stderr
    done = call(train_command, described / "slices.zip", "--no-card", "--out", tmp_path / "run",
                *KNN, "--protocol", "source:home")  # fmt: skip
    assert "give --groups" in str(done.exception)
    assert "data.toml" not in done.stderr


def test_the_tables_of_a_partial_set_of_ones_own_are_ones_own(
    described: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("slices.zip", "groups.csv"):
        (tmp_path / name).write_bytes((described / name).read_bytes())
    card = 'images = "slices.zip"\npartial = "slices.zip"\npartial_groups = "groups.csv"\n'
    (tmp_path / "data.toml").write_text(card)
    done = call(train_command, tmp_path, "--out", tmp_path / "run", *KNN, "--partial",
                tmp_path / "mine")  # fmt: skip
    assert "no readable image" in str(done.exception)
    assert "partial_groups" not in done.stderr


def test_a_resumed_training_takes_the_tables_that_it_began_with(
    described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the card has come to say of others since."""
    copy = tmp_path / "set"
    copy.mkdir()
    for name in ("slices.zip", "groups.csv", "boxes.csv"):
        (copy / name).write_bytes((described / name).read_bytes())
    began = 'images = "slices.zip"\ngroups = "groups.csv"\n' + PHANTOMS.replace("BY 4.0", "BY 3.0")
    (copy / "data.toml").write_text(began)
    out = tmp_path / "run"

    def stop(*_words: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trainer.train_job.fit_classical_model", stop)
        assert call(train_command, copy, "--out", out, *KNN).exit_code == 130
    text = (described / "data.toml").read_text().replace("notumor", "glioma")
    (copy / "data.toml").write_text(text + 'url = "https://b"\n')
    done = call(train_command, copy, "--out", out, "--resume")
    assert done.exit_code == 0, done.output
    assert "the card's license, url: not what the run was started with" in done.stderr
    assert f"groups: {copy / 'groups.csv'} (data.toml)" in done.stderr
    assert "boxes:" not in done.stderr
    assert "tumour_free" not in done.stderr
    settings = json.loads((out / "run.json").read_text())
    assert settings["tumour_free"] is None
    assert settings["data"]["license"] == "CC BY 3.0"
    assert settings["data"]["url"] is None

    taken_up_without = tmp_path / "without"
    with monkeypatch.context() as patched:
        patched.setattr("trainer.train_job.fit_classical_model", stop)
        assert call(train_command, described, "--out", taken_up_without, *KNN).exit_code == 130
    tables = [word for name in ("groups", "boxes")
              for word in (f"--{name}", described / f"{name}.csv")]  # fmt: skip
    done = call(train_command, described / "slices.zip", "--no-card", *tables, "--out",
                taken_up_without, "--resume")  # fmt: skip
    assert done.exit_code == 0, done.output
    data = json.loads((taken_up_without / "run.json").read_text())["data"]
    assert [data[key] for key in ("title", "license")] == ["Phantoms", "CC BY 4.0"]


def test_an_evaluation_takes_groups_and_boxes(described: Path) -> None:
    from edge_runtime.model.load import bundled_model

    done = call(evaluate_command, bundled_model(), described, "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["n"] == 12
    assert list(found["per_source"]) == ["home"]
    assert f"boxes: {described / 'boxes.csv'} (data.toml)" in done.stderr


def test_an_audit_leaves_a_card_that_works(described: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "set", tmp_path / "audit"
    data.mkdir()
    (data / "slices.zip").write_bytes((described / "slices.zip").read_bytes())
    done = call(audit_command, data / "slices.zip", "--out", out)
    assert "data.toml)" in done.stdout
    for name in ("groups.csv", "data.toml"):
        (data / name).write_bytes((out / name).read_bytes())
    card = find_card(data)
    assert card is not None
    assert card.files == {"images": data / "slices.zip", "groups": data / "groups.csv"}
    assert card.tumour_free == ("notumor",)
    assert "glioma 12, meningioma 12, notumor 12, pituitary 12" in (out / "data.toml").read_text()

    (out / "data.toml").write_text("# completed by hand\n")
    again = call(audit_command, data / "slices.zip", "--no-card", "--out", out)
    assert "stays as it is" in again.stderr
    assert "data.toml)" not in again.stdout
    assert (out / "data.toml").read_text() == "# completed by hand\n"
    beside = call(audit_command, data, "--out", data)
    assert isinstance(beside.exception, UsageError), "it would replace the table that it reads"


def test_an_audit_of_data_with_a_card_reads_it_and_writes_none(
    described: Path, tmp_path: Path
) -> None:
    done = call(audit_command, described, "--out", tmp_path, "--format", "json")
    assert json.loads(done.stdout)["groups"]["given"] == 48
    assert f"groups: {described / 'groups.csv'} (data.toml)" in done.stderr
    assert not (tmp_path / "data.toml").exists()


def test_after_an_audit_a_training_reads_the_table_of_the_card(
    described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partial slices may name its groups, and the audit has joined some under other names."""
    told: list[list[object]] = []
    monkeypatch.setattr("trainer.commands.audit.next_command", told.append)
    call(audit_command, described, "--out", tmp_path / "one")
    mine = ("--groups", described / "groups.csv")
    call(audit_command, described, *mine, "--out", tmp_path / "two")
    call(audit_command, described / "slices.zip", "--no-card", "--out", tmp_path / "three")
    assert told[0][:2] == ["btc-train", described]
    assert "--groups" not in told[0]
    assert told[1][2:4] == ["--groups", tmp_path / "two" / "groups.csv"]
    assert told[2][2:4] == ["--groups", tmp_path / "three" / "groups.csv"]


def test_names_of_files_are_no_toml(tmp_path: Path) -> None:
    """Nor does one end a comment, or steer a terminal."""
    import tomllib

    hostile = 'a"\\\n\x1b\x7f\u0085é😀'
    text = card_text(hostile, {hostile: 3}, [hostile], [hostile])
    assert tomllib.loads(text) == {
        "images": hostile, "groups": "groups.csv", "tumour_free": [hostile],
    }  # fmt: skip
    assert "\x1b" not in text


def test_a_zip_whose_name_no_toml_can_hold() -> None:
    import tomllib

    text = card_text("\udce9.zip", {"a": 1}, [], [])
    assert "images" not in tomllib.loads(text)
    assert "call this file like it" in text


def test_a_wrong_card_ends_the_installed_commands(folder: Path) -> None:
    (folder / "data.toml").write_text('grups = "groups.csv"\n')
    (folder / "model").mkdir()
    for words in (("btc-train", folder), ("btc-audit", folder),
                  ("btc-evaluate", folder / "groups.csv", folder)):  # fmt: skip
        name, *others = map(str, words)
        done = subprocess.run([BIN / name, *others], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr == (
            f"{name}: {folder / 'data.toml'}: unknown key 'grups'; did you mean 'groups'?; "
            "mend it, or pass it over with --no-card\n"
        )
    assert not (folder / "runs").exists()
