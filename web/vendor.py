"""The build of this distribution: setuptools', behind two packages of npm at pinned versions.

Nothing of them lies in the repository. Each is fetched by npm, compared with its digest, and what
the page needs of it is written to `btc_edge_web/vendored`, the WebAssembly packed with gzip: a page
is loaded in a third of the bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import build_meta

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "btc_edge_web" / "vendored"


class Package(NamedTuple):
    """A package of npm.

    Attributes:
        integrity: SHA-512 of its archive in base64, as npm tells it.
        members: path in the archive -> name here; a name that ends in .gz is packed.
    """

    name: str
    version: str
    integrity: str
    members: dict[str, str]


# The variant `compat` needs no relaxed SIMD, whose results each processor may round its own way: so
# every browser has the same answers, for 1.6 ms a slice in place of 1.0 with the bundled model.
PACKAGES = (
    Package(
        "@litertjs/core",
        "2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {
            "package/dist/index.js": "litert.js",
            "package/wasm/litert_wasm_compat_internal.js": "litert_glue.js",
            "package/wasm/litert_wasm_compat_internal.wasm": "litert.wasm.gz",
        },
    ),
    Package(
        "@cwasm/jpeg-turbo",
        "0.1.3",
        "FkZxwwC6r4zhzlqM0nYGaMj/MDSrZPxLOdPdM6ySlgsMfOpNAZcLQkpNF4jP+DmsuUvRoeUD0YSMBvg3jYfK6w==",
        {"package/jpeg-turbo.wasm": "jpeg-turbo.wasm.gz"},
    ),
)


def vendor() -> None:
    """Fill `btc_edge_web/vendored`; nothing is fetched where it holds these versions already.

    Raises:
        SystemExit: no npm, no such package, or one with another digest.
    """
    versions = {package.name: package.version for package in PACKAGES}
    told = FOLDER / "versions.json"
    if told.is_file() and json.loads(told.read_text("utf-8")) == versions:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("btc-edge-web is built with npm, which is not here: install Node.js")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with tempfile.TemporaryDirectory() as name:
        for package in PACKAGES:
            _take(npm, package, Path(name))
    texts = [HERE.joinpath(name).read_text("utf-8") for name in ("NOTICE", "LICENSE")]
    FOLDER.joinpath("licences.txt").write_text("\n\n".join(texts), "utf-8")
    told.write_text(json.dumps(versions), "utf-8")  # last: the folder is whole


def _take(npm: str, package: Package, folder: Path) -> None:
    word = f"{package.name}@{package.version}"
    command = [npm, "pack", "--silent", "--ignore-scripts", word]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if packed.returncode:
        raise SystemExit(f"npm cannot fetch {word}: {packed.stderr.strip()[-300:]}")
    path = folder / packed.stdout.split()[-1]
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode("ascii")
    if digest != package.integrity:
        raise SystemExit(f"the package {word} is not what it was: its SHA-512 is {digest}")
    with tarfile.open(path) as archive:
        for member, name in package.members.items():
            stream = archive.extractfile(member)
            if stream is None:
                raise SystemExit(f"the package {word} has no file {member}")
            content = stream.read()
            if name.endswith(".gz"):
                content = gzip.compress(content, 9, mtime=0)
            (FOLDER / name).write_bytes(content)


# Hooks of the build (PEP 517, PEP 660).
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
build_sdist = build_meta.build_sdist


def build_wheel(*arguments: Any, **options: Any) -> Any:
    vendor()
    return build_meta.build_wheel(*arguments, **options)


def build_editable(*arguments: Any, **options: Any) -> Any:
    vendor()
    return build_meta.build_editable(*arguments, **options)
