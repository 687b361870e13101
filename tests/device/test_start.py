"""How `btc-edge` starts: what it loads, what it leaves alone, and what it says before it does."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.commands.entry import loading
from edge_runtime.commands.main import SUBCOMMANDS, command

BIN = Path(sys.executable).parent
LIBRARIES = """
import click, contextlib, cv2, numpy
with contextlib.suppress(ImportError): import ai_edge_litert.interpreter
with contextlib.suppress(ImportError): import tflite_runtime.interpreter
"""
RUN = "from edge_runtime.commands.main import main\ntry: main()\nexcept SystemExit: pass\n"
TELL = "import sys; sys.exit(' '.join(sorted(sys.modules)))"
# What neither the libraries nor an answer as a table need.
NEEDLESS = {
    *("csv", "difflib", "select", "shlex", "socket", "ssl", "tempfile", "importlib.resources"),
    *("asyncio", "concurrent.futures", "multiprocessing", "subprocess"),
    *("edge_runtime.benchmark", "edge_runtime.commands.benchmark", "edge_runtime.child"),
    *("edge_runtime.commands.info", "edge_runtime.commands.verify", "edge_runtime.verify"),
    *("edge_runtime.model.signature", "edge_runtime.model.untrusted"),
    *("edge_runtime.decision.heatmap", "edge_runtime.imaging.dicom", "edge_runtime.imaging.nifti"),
    *("edge_runtime.imaging.handcrafted", "edge_runtime.imaging.tiff"),
}
# The value of the variable when numpy is imported: later it does nothing.
WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.meta_path.remove(self)
            seen.append(os.environ.get("OPENBLAS_NUM_THREADS"))
seen = []
sys.meta_path.insert(0, Watch())
"""


def python(
    code: str, *arguments: object, threads: str | None = None
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    given = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if threads is not None:
        given["OPENBLAS_NUM_THREADS"] = threads
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=given)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "slice.jpg"
    path.write_bytes(encode(draw_slice(1), ".jpg"))
    return path


def test_an_answer_loads_what_it_needs(picture: Path) -> None:
    bare = set(python(f"{LIBRARIES}\n{TELL}").stderr.split())
    done = python(RUN + TELL, "classify", picture)
    assert str(picture) in done.stdout
    loaded = set(done.stderr.splitlines()[-1].split())
    assert {"edge_runtime.commands.classify", "edge_runtime.classifier"} <= loaded
    assert (loaded - bare) & NEEDLESS == set()


def test_the_list_of_commands_loads_none() -> None:
    done = python(RUN + TELL, "--help")
    assert all(name in done.stdout for name in SUBCOMMANDS)
    loaded = set(done.stderr.split())
    assert "edge_runtime.commands.main" in loaded
    assert loaded & {f"edge_runtime.commands.{name}" for name in SUBCOMMANDS} == set()


def real_commands() -> dict[str, click.Command]:
    homes = {name: importlib.import_module(f"edge_runtime.commands.{name}") for name in SUBCOMMANDS}
    return {name: getattr(home, name) for name, home in homes.items()}


def test_the_list_of_commands_says_what_they_say_themselves() -> None:
    for width in (*range(20, 130), 400):  # of the terminal: what does not fit is cut
        texts = []
        for group in (command, click.Group("btc-edge", real_commands())):
            formatter = click.HelpFormatter(width=width)
            group.format_commands(click.Context(group), formatter)
            texts.append(formatter.getvalue())
        assert texts[0] == texts[1]


def test_every_command_is_listed() -> None:
    folder = Path(importlib.import_module("edge_runtime.commands").__path__[0])
    modules = (importlib.import_module(f"edge_runtime.commands.{p.stem}")
               for p in folder.glob("[a-z]*.py"))  # fmt: skip
    commands = {
        value.name
        for module in modules
        for value in vars(module).values()
        if isinstance(value, click.Command) and value is not command
    }
    assert commands == set(SUBCOMMANDS)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("btc-edge ", set(SUBCOMMANDS)),
        ("btc-edge ver", {"verify"}),
        ("btc-edge classify --form", {"--format"}),
        ("btc-edge classify --format js", {"json", "jsonl"}),
        ("btc-edge info --vers", {"--version"}),
    ],
)
def test_the_shell_completes_words(typed: str, offered: set[str]) -> None:
    asked = {"_BTC_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": typed,
             "COMP_CWORD": str(typed.count(" "))}  # fmt: skip
    done = subprocess.run(
        [str(BIN / "btc-edge")], capture_output=True, text=True, env={**os.environ, **asked}
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == offered


@pytest.mark.parametrize(("threads", "seen"), [(None, "1"), ("3", "3"), ("", "")])
def test_matrices_take_one_thread_unless_the_user_says_so(
    threads: str | None, seen: str, picture: Path
) -> None:
    done = python(WATCH + RUN + "sys.exit(repr(seen))", "classify", picture, threads=threads)
    assert done.stderr.splitlines()[-1] == repr([seen])


@pytest.mark.parametrize(
    "code",
    [
        "import edge_runtime; edge_runtime.Classifier()",
        "import edge_runtime.commands.main, edge_runtime.commands.classify, numpy",
        "from trainer.commands.audit import main\ntry: main()\nexcept SystemExit: import numpy",
    ],
    ids=["in a program", "as a module", "on a workstation"],
)
def test_nobody_elses_threads_are_touched(code: str) -> None:
    done = python(f"{WATCH}{code}\nsys.exit(repr(seen))", "--version")
    assert done.stderr.splitlines()[-1] == repr([None])


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector of the tests' own process, as it was."""
    was = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if was else gc.disable)()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("was", [True, False])
def test_what_is_loaded_is_never_collected_and_what_follows_is_as_before(was: bool) -> None:
    (gc.enable if was else gc.disable)()
    gc.unfreeze()
    with loading():
        assert not gc.isenabled()
        kept = [[]]  # type: ignore[var-annotated]
    assert gc.isenabled() == was
    assert gc.get_freeze_count() > 0
    assert all(each is not kept for each in gc.get_objects()), "the permanent ones are not listed"
    with pytest.raises(ZeroDivisionError), loading():
        _ = 1 / 0
    assert gc.isenabled() == was
