"""Fresh Python environments: made, measured, and kept for reuse."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.process import clean_environment, kill_group
from edge_runtime.errors import BtcError, UsageError

ROOT = Path(__file__).resolve().parents[2]
VERSION = "3.11"  # the newest that tflite-runtime knows
NOT_OURS = ("pip", "setuptools")  # a fresh environment has them


@dataclass(frozen=True)
class Environment:
    """An environment in its folder."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        """Its site-packages."""
        return next((self.folder / "lib").glob("python*/site-packages"))


def find_python() -> str:
    """A Python of the version that all packages know, which really runs (a shim may not).

    Raises:
        UsageError: there is none.
    """
    places = [shutil.which(f"python{VERSION}")]
    pattern = f".pyenv/versions/{VERSION}.*/bin/python{VERSION}"
    places += sorted(map(str, Path.home().glob(pattern)))
    for place in filter(None, places):
        done = subprocess.run([place, "-c", "import ensurepip"], capture_output=True)
        if done.returncode == 0:
            return place
    raise UsageError(f"no Python {VERSION} here: name one with --python")


def run(*words: str | Path, seconds: float | None = None) -> str:
    """Run a command and return what it printed.

    Args:
        seconds: after which it is ended, with all that it started.

    Raises:
        BtcError: it failed, or took too long.
    """
    called = " ".join(map(str, words[:4]))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        list(map(str, words)), stdout=pipe, stderr=pipe, text=True, env=clean_environment(),
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            told, problems = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BtcError(f"{called} took more than {seconds:g} s") from None
        finally:  # before its end is waited for, also where the wait was interrupted
            if process.returncode is None:
                kill_group(process.pid)
    if process.returncode != 0:
        last = (problems or told).strip().splitlines()[-1:]
        raise BtcError(f"{called} failed: {' '.join(last)}")
    return told


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, from a copy: a build leaves files beside its source."""
    source = folder / "source"
    for part in ("edge_runtime", "trainer", "export"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source)
    return next(folder.glob("*.whl"))


def install(
    environment: Environment,
    python: str,
    choices: Sequence[Sequence[str]],
    wheel: Path | None = None,
    seconds: float | None = None,
) -> None:
    """Make an environment, or bring the wheel of one that is there up to date.

    Args:
        python: what makes it.
        choices: what pip installs, words for each; the first that can be had.
        wheel: installed last; without `choices` it brings all it needs.
        seconds: which one step may take.

    Raises:
        BtcError: something cannot be installed.
    """
    folder = environment.folder
    pip = (environment.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    complete = folder / "complete"  # written last: an interrupted installation begins afresh
    if complete.exists():
        if wheel is not None:
            run(*pip, "--no-deps", "--force-reinstall", wheel, seconds=seconds)
        return
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder, seconds=seconds)
    for i, words in enumerate(choices):
        try:
            run(*pip, *words, seconds=seconds)
            break
        except BtcError:  # no such package for this machine
            if i == len(choices) - 1:
                raise
    if wheel is not None:
        run(*pip, *(["--no-deps"] if choices else []), wheel, seconds=seconds)
    complete.touch()


def packages(site: Path) -> dict[str, str]:
    """Names and versions of what is installed, besides pip and setuptools."""
    names = (p.name.removesuffix(".dist-info") for p in site.glob("*.dist-info"))
    found = dict(name.rsplit("-", 1) for name in sorted(names))
    return {n.replace("_", "-"): v for n, v in found.items() if n not in NOT_OURS}


def installed_bytes(site: Path) -> int:
    """Size of all files in site-packages, besides those of pip and setuptools."""
    ours = (
        p for p in site.iterdir()
        if p.name.partition("-")[0] not in (*NOT_OURS, "_distutils_hack", "distutils")
    )  # fmt: skip
    return sum(map(tree_bytes, ours))


def tree_bytes(path: Path) -> int:
    """Size of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.lstat().st_size for p in files)
