"""How the runtime of pages comes from npm: pinned, checked, and never half there. npm is a script
here that hands out an archive."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.documents import ROOT

pytest.importorskip("setuptools")
CONTENT = {"package/a.js": b"export {};\n", "package/b.wasm": bytes(1000)}


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module of the build, which fetches a package of this test's."""
    spec = importlib.util.spec_from_file_location("vendor", ROOT / "web" / "vendor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as out:
        for name, data in CONTENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    npm = tmp_path / "npm"
    npm.write_text(
        f'#!/bin/sh\ncp {archive} got.tgz && echo got.tgz && echo "$@" >> {tmp_path}/asked\n'
    )
    npm.chmod(0o755)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    members = {"package/a.js": "a.js", "package/b.wasm": "b.wasm.gz"}
    package = module.Package("@some/thing", "1.2.3", digest, members)
    monkeypatch.setattr(module, "PACKAGES", (package,))
    monkeypatch.setattr(module, "FOLDER", tmp_path / "vendored")
    monkeypatch.setattr(module.shutil, "which", lambda name: str(npm))
    return module


def test_what_a_page_needs_is_taken_and_packed(vendor: ModuleType, tmp_path: Path) -> None:
    vendor.vendor()
    folder = vendor.FOLDER
    assert (folder / "a.js").read_bytes() == CONTENT["package/a.js"]
    assert gzip.decompress((folder / "b.wasm.gz").read_bytes()) == CONTENT["package/b.wasm"]
    licences = (folder / "licences.txt").read_text("utf-8")
    assert "Independent JPEG" in licences
    assert "Apache License" in licences
    assert "@some/thing@1.2.3" in (tmp_path / "asked").read_text()


def test_what_is_there_is_not_fetched_again(vendor: ModuleType, tmp_path: Path) -> None:
    vendor.vendor()
    vendor.vendor()
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_another_digest_is_refused(vendor: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (package,) = vendor.PACKAGES
    monkeypatch.setattr(vendor, "PACKAGES", (package._replace(integrity="other"),))
    with pytest.raises(SystemExit, match="is not what it was"):
        vendor.vendor()
    assert not (vendor.FOLDER / "versions.json").exists()


def test_without_npm_the_build_says_so(vendor: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="npm, which is not here"):
        vendor.vendor()


def test_what_npm_says_is_told(vendor: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(SystemExit, match=r"cannot fetch @some/thing@1\.2\.3: no network"):
        vendor.vendor()


def test_real_packages_are_pinned() -> None:
    spec = importlib.util.spec_from_file_location("vendor", ROOT / "web" / "vendor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for package in module.PACKAGES:
        assert len(base64.b64decode(package.integrity, validate=True)) == 64
        assert package.version.count(".") == 2
