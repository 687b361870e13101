"""Documents say what is there: links, modules, options, tables, schemas, and they make a site."""

from __future__ import annotations

import html
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import tomllib

from edge_runtime.decision.prediction import Status, status_of
from edge_runtime.model.load import read_model
from tests.documents import (
    ARCHIVE,
    DATA_GUIDE,
    DOCUMENTS,
    GUIDES,
    README,
    RESULTS,
    ROOT,
    SERVICES,
    STUDIES,
    WEB,
    blocks,
    commands,
    data_commands,
)

MADE = ROOT / "benchmarks" / "results"
SHOWN = (
    "honest", "robust", "models", "ood", "formats", "fastest", "runtimes", "calibration",
    "footprint", "extras", "device", "peers", "resize", "training", "join",
    "two_files", "two_recipes", "own_rules", "serve", "web", "studies", "quantizers", "archive",
)  # fmt: skip
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "scripts"
]
PACKAGES = "edge_runtime|trainer|export|benchmarks"


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.S | re.M)


def anchors(path: Path) -> set[str]:
    """The places of a document that a link can lead to, as GitHub and the site name them."""
    titles = re.findall(r"^#+ (.+)$", prose(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or stands in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.is_file():
            text = module.read_text("utf-8")
            rest = parts[end : end + 1]
            return all(re.search(rf"\b{re.escape(part)}\b", text) for part in rest)
    return False


NOW = tuple(path for path in DOCUMENTS if path.name != "CHANGELOG.md")  # which names what was


@pytest.mark.parametrize("path", NOW, ids=names(NOW))
def test_modules_that_are_named_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    dotted = set(re.findall(rf"(?<![\w/.-])((?:{PACKAGES})(?:\.[A-Za-z_]\w*)+)", text))
    dotted = {n for n in dotted if n.rpartition(".")[2] not in {"md", "json", "html", "py"}}
    assert {name for name in dotted if not is_there(name)} == set()
    places = set(re.findall(rf"`((?:{PACKAGES}|tests|docs)/[\w./-]+)`", text))
    assert {place for place in places if not (ROOT / place).exists()} == set()


def test_tables_that_contributors_add_to_exist() -> None:
    named = re.findall(
        r"`([A-Z_]+)` in `([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    )
    assert len(named) > 4
    for name, module in named:
        assert re.search(rf"^{name}\b.*=", (ROOT / module).read_text("utf-8"), flags=re.M), name


def test_every_command_is_documented() -> None:
    words = {
        word
        for line in [*commands(), *data_commands()]
        for word in re.findall(r"\bbtc-[a-z]+(?= )", line)
    }
    assert words == set(SCRIPTS)


def loaded(script: str) -> click.Command:
    """The command of an entry point."""
    module = importlib.import_module(SCRIPTS[script].partition(":")[0])
    there = [value for value in vars(module).values() if isinstance(value, click.Command)]
    (command,) = [value for value in there if isinstance(value, click.Group)] or there
    return command


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command, or each of its own commands."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        below = command.get_command(context, word)
        assert below is not None
        yield from leaves(f"{name} {word}", below)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_documented(script: str) -> None:
    training, devices, _, studies, services, archive = (
        path.read_text("utf-8") for path in (*GUIDES, STUDIES, SERVICES, ARCHIVE)
    )
    guide = (
        devices + studies + services + archive if script in {"btc-edge", "btc-plot"} else training
    )
    if script == "btc-data":
        guide = DATA_GUIDE.read_text("utf-8") + training
    for name, command in leaves(script, loaded(script)):
        assert re.search(rf"\b{name}\b", guide), name
        options = {
            word
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden
            for word in (*option.opts, *option.secondary_opts)
            if word.startswith("--") and word not in {"--help", "--version", "--help-all"}
        }
        missing = {w for w in options if not re.search(rf"(?<![\w-]){w}(?![\w-])", guide)}
        assert missing == set(), name


ALL = (*GUIDES, STUDIES, SERVICES, ARCHIVE, WEB, DATA_GUIDE)


@pytest.mark.parametrize("guide", ALL, ids=names(ALL))
def test_options_in_commands_exist(guide: Path) -> None:
    known = {
        name: {
            word
            for option in command.params
            if not getattr(option, "hidden", False)
            for word in (*option.opts, *option.secondary_opts)
        }
        for script in SCRIPTS
        for name, command in leaves(script, loaded(script))
    }
    typed = "".join([*blocks(guide, "sh"), *blocks(guide, "bash")])
    called = re.compile(r"(?:^|[\s/(])(btc-[a-z]+ [^.].*)")  # not a folder
    for line in filter(None, map(called.search, typed.splitlines())):
        words = re.split(r"[|<>]", line[1])[0].split()
        name = " ".join(words[:2]) if words[0] in {"btc-edge", "btc-data"} else words[0]
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert name in known, line
        assert given <= known[name], line


def test_readme_is_short() -> None:
    before, _, after = README.read_text("utf-8").partition("\n## Results\n")
    assert len(before.splitlines()) <= 60  # two screens
    results = after.partition("\n## ")[0]
    assert len(re.findall(r"^\|[-|: ]+\|$", results, flags=re.M)) == 1


def test_readme_tells_first_what_it_is_not() -> None:
    assert "Research use only" in README.read_text("utf-8").partition("\n## ")[0]


def test_rows_of_the_readme_are_those_of_the_benchmark() -> None:
    results = README.read_text("utf-8").partition("\n## Results\n")[2].partition("\n## ")[0]
    rows = [line for line in results.splitlines() if line.startswith("|")]
    made = (MADE / "robust.md").read_text("utf-8").splitlines()
    assert len(rows) > 4
    assert set(rows) <= set(made)


def test_the_picture_shows_answers_of_the_bundled_model() -> None:
    picture = (ROOT / "docs" / "classify.svg").read_text("utf-8")
    assert "url(http" not in picture.replace('"', "")  # a reader's network is not asked
    lines = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    shown = [html.unescape(line).replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    answers = [
        match.groups()
        for line in shown
        if (match := re.match(r"\(?(\w+)\)? +([\d.]+) % +(\w+)", line))
    ]
    thresholds = read_model(None).info.thresholds
    assert thresholds is not None
    statuses = [status for _, _, status in answers]
    assert set(statuses) == {"ok", "uncertain", "unfamiliar"}
    for label, percent, status in answers:
        is_ood = status == "unfamiliar"
        assert status_of(float(percent) / 100, thresholds[label], is_ood) is Status(status), label


def test_no_heading_begins_with_a_digit() -> None:
    for path in DOCUMENTS:  # the script of the site's theme takes its anchor for a selector
        assert re.findall(r"^#+ \d.*$", prose(path), flags=re.M) == [], path


@pytest.mark.parametrize("name", SHOWN)
def test_result_tables_are_those_of_the_benchmarks(name: str) -> None:
    assert (MADE / f"{name}.md").read_text("utf-8").strip() in RESULTS.read_text("utf-8")


@pytest.mark.parametrize("name", sorted(path.stem for path in MADE.glob("*.md")))
def test_each_result_is_linked_and_has_its_command(name: str) -> None:
    text = RESULTS.read_text("utf-8")
    assert f"results/{name}.md" in text
    module = "robust" if name == "answers" else name
    everywhere = " ".join(" ".join(p.read_text("utf-8").split()) for p in DOCUMENTS)
    assert f"python -m benchmarks.{module}" in everywhere


def test_shapes_show_fields_of_the_schemas() -> None:
    shown = blocks(ROOT / "docs" / "shapes.md", "json")
    for text, name in zip(shown, ("answer", "model"), strict=True):
        schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text("utf-8"))
        fields = json.loads(text).keys()
        assert set(schema["required"]) <= fields <= set(schema["properties"])


@pytest.mark.parametrize(
    "name",
    ["archive-manifest", "archive-plan", "archive-shard", "archive-summary", "audit", "benchmark",
     "export", "metrics", "picked"],
)  # fmt: skip
def test_shapes_name_every_field(name: str) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text("utf-8"))
    fields = schema["items"]["properties"] if schema.get("type") == "array" else {
        **schema["properties"], **schema.get("$defs", {}).get("measured", {}).get("properties", {})
    }  # fmt: skip
    quoted = re.findall(r"`([^`]+)`", prose(ROOT / "docs" / "shapes.md"))
    named = set(re.findall(r"\w+", " ".join(quoted)))
    assert set(fields) - named <= {"schema"}


def test_options_of_benchmarks_exist() -> None:
    for path in NOW:
        text = " ".join(path.read_text("utf-8").split())
        for module, words in re.findall(r"`python -m (benchmarks\.\w+)([^`]*)`", text):
            home = ROOT.joinpath(*module.split("."))
            files = home.glob("*.py") if home.is_dir() else [home.with_suffix(".py")]
            known = "\n".join(file.read_text("utf-8") for file in files)
            for option in re.findall(r"--[a-z][\w-]+", words):
                assert f'"{option}"' in known, f"{path.name}: {module} {option}"


def test_the_data_card_has_every_field_that_is_read() -> None:
    from trainer.data.card import KEYS

    training = ROOT / "docs" / "training.md"
    (shown,) = blocks(training, "toml")
    assert tomllib.loads(shown).keys() <= set(KEYS)
    table = training.read_text("utf-8").partition("| field |")[2].partition("\n\n")[0]
    assert {key for key in KEYS if f"`{key}`" not in table} == set()


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    page = (tmp_path / "api" / "index.html").read_text("utf-8")
    assert "classify_many" in page
    assert 'href="devices.html' in (tmp_path / "index.html").read_text("utf-8")
    # What a page needs lies beside it: no script, font or picture comes from elsewhere.
    for made in tmp_path.rglob("*.html"):
        assert not re.search(r'(?:src="|rel="stylesheet" href=")https?:', made.read_text("utf-8"))
