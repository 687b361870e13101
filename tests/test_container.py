"""The Dockerfile: its rules; what is built from it runs as nobody from a read-only root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from tests.arm.roots import EVERY_SYSTEM, MIRROR, PIP, PYTHON, SUITE, Unavailable, fetch, run
from tests.documents import ROOT

TOOL = Path(sys.executable).parent / "btc-edge"
USER = "65532:65532"
# The image as a read-only root, an empty /tmp, the slices at /home; $1: the image, $2: slices.
ENTER = f"""
mkdir -p "$1/proc" "$1/tmp" "$1/mnt"
mount --bind "$1" "$1"
mount --rbind /proc "$1/proc"
mount --bind "$2" "$1/home"
mount -o remount,bind,ro "$1"
mount -t tmpfs tmpfs "$1/tmp"
root=$1
shift 2
exec chroot --userspec={USER} "$root" "$@"
"""


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions: a word and the rest."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", "").splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


def test_the_last_stage_runs_one_program_as_nobody() -> None:
    known = instructions()
    last = known[max(i for i, (word, _) in enumerate(known) if word == "FROM") :]
    said = dict(last)
    assert said["USER"] == USER
    assert json.loads(said["ENTRYPOINT"]) == ["/opt/btc-edge/bin/btc-edge"]
    assert {word for word, _ in last} <= {
        "FROM", "LABEL", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"
    }, "nothing runs while the last stage is made"  # fmt: skip
    assert [rest for word, rest in last if word == "COPY"] == [
        "--from=build /opt/btc-edge /opt/btc-edge"
    ]


def test_nothing_but_the_package_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {name for word, rest in instructions() if word == "COPY" and "--from" not in rest
              for name in rest.split()[:-1]}  # fmt: skip
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def why_not() -> str | None:
    """Why no image can be built here, or None."""
    absent = [tool for tool in ("buildah", "mmdebstrap", "unshare") if shutil.which(tool) is None]
    if absent:
        return f"apt-get install {' '.join(absent)}"
    if os.geteuid() != 0:
        return "a base is set up by root"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    return done.stderr.strip() or None


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """buildah with a store of its own."""
    folder = tmp_path_factory.mktemp("store")
    words = ("buildah", "--storage-driver", "vfs", "--root", str(folder / "root"),
             "--runroot", str(folder / "run"))  # fmt: skip
    yield words
    run(*words, "rm", "--all")
    run(*words, "rmi", "--all", "--force")


@pytest.fixture(scope="module")
def image(buildah: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image from a base of Debian's packages, since no registry of images is asked."""
    folder = tmp_path_factory.mktemp("base")
    wheels = folder / "wheels"
    packages = ",".join([*EVERY_SYSTEM, "base-files", "python3-venv"])
    try:
        fetch("mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}", SUITE,
              folder / "base.tar", MIRROR)  # fmt: skip
        fetch(*PIP, "download", "--dest", wheels, f"--python-version={PYTHON}",
              "--only-binary=:all:", "numpy", "opencv-python-headless", "ai-edge-litert", "click",
              "setuptools>=77")  # fmt: skip
    except Unavailable as error:
        pytest.skip(f"no base here: {error}")
    (folder / "Base").write_text("FROM scratch\nADD base.tar /\n")
    built = (*buildah, "build", "--quiet", "--isolation", "chroot")
    run(*built, "--tag", "base", "--file", folder / "Base", folder)
    run(*built, "--pull-never", "--build-arg", "BASE=localhost/base", "--build-arg",
        "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels",
        "--volume", f"{wheels}:/wheels:ro", "--tag", "btc-edge", ROOT)  # fmt: skip
    return "localhost/btc-edge"


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=f"no image: {why_not()}")
def test_it_answers_from_a_read_only_root(
    buildah: tuple[str, ...], image: str, tmp_path: Path
) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encode(draw_slice(i), ".png"))
    tmp_path.chmod(0o755)
    config = json.loads(run(*buildah, "inspect", "--type", "image", image))["OCIv1"]["config"]
    assert config["User"] == USER
    container = run(*buildah, "from", "--pull-never", image).strip()
    place = run(*buildah, "mount", container).strip()
    variables = dict(pair.split("=", 1) for pair in config["Env"])
    enter = ("unshare", "--mount", "sh", "-ec", ENTER, "enter", place, tmp_path)

    def inside(*words: object, quiet: bool = True) -> str:
        return run(*enter, *words, quiet=quiet, env=variables)

    entry = config["Entrypoint"]
    assert json.loads(inside(*entry, "info", "--format", "json")) == json.loads(
        run(TOOL, "info", "--format", "json")
    )
    answers = json.loads(inside(*entry, "classify", "-r", "/home", "--format", "json"))
    assert [answer["error"] for answer in answers] == [None, None]
    python = Path(entry[0]).with_name("python3")
    tried = "import os\nprint(os.getuid())\nopen('/tmp/a', 'w')\n"
    assert inside(python, "-c", tried).split() == ["65532"]
    for folder in ("/opt/btc-edge", "/", "/home"):
        with pytest.raises(AssertionError, match=r"Read-only file system|Permission denied"):
            inside(python, "-c", f"open('{folder}/a', 'w')", quiet=False)
    with pytest.raises(AssertionError, match="No module named 'pip'"):
        inside(python, "-c", "import pip", quiet=False)
    assert not (Path(place) / "source").exists()
