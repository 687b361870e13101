"""`btc-data fetch`: the real libraries against a server on 127.0.0.1, and their caches; hostile
archives. Nothing here reaches beyond this machine: the server is Kaggle's proxy and Hugging Face's
endpoint."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.commands.entry import _run
from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.limits import MIB
from edge_runtime.imaging.preprocess import Preprocess
from trainer.commands.data import command
from trainer.data.archive import SPECIAL
from trainer.data.card import find_card
from trainer.data.dataset import read_dataset
from trainer.prepare.fetch import origin as origins
from trainer.prepare.fetch import unpack
from trainer.prepare.fetch.job import read_origin
from trainer.prepare.fetch.unpack import TAR, ZIP, Damaged, Unpacker
from trainer.prepare.folder import JOURNAL

pytest.importorskip("kagglehub")
pytest.importorskip("huggingface_hub")

KAGGLE = "kaggle:someone/brain-slices/versions/3"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HF = f"hf:someone/brain-slices@{COMMIT}"
API = "/api/v1/datasets.DatasetApiService"
SECRET = "KGAT_not_to_be_seen"
Run = Callable[..., tuple[int, str, str]]  # see the fixture `fetch`


def picture(seed: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


SLICES = {
    "Training/glioma/a.png": picture(1),
    "Training/no_tumor/b.png": picture(2),
    "Testing/glioma/c.png": picture(3),
    "README.md": b"# Slices\n",
}


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Service(ThreadingHTTPServer):
    """A server whose answers a test sets.

    Attributes:
        pages: by path: bytes (a file), a status, or a function of the handler.
        cut: by path: after how many bytes each of the next answers breaks off.
        ranges: whether files are sent in part.
        stalled: by path: after how many bytes an answer waits until `go_on` is set; `reached` is
            set then.
        asked: method, path and Range of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Any] = {}
        self.cut: dict[str, list[int]] = {}
        self.ranges = True
        self.stalled: dict[str, int] = {}
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client may leave; what is on stderr is the command's."""

    def kaggle(self, archive: bytes, newest: int = 3) -> None:
        """Hold the data set of KAGGLE."""
        told = {"ref": "someone/brain-slices", "title": "Brain slices", "licenseName": "CC0-1.0",
                "totalBytes": len(archive), "currentVersionNumber": newest}  # fmt: skip
        self.pages[f"{API}/GetDataset"] = told
        self.pages[f"{API}/DownloadDataset"] = f"{self.url}/store/archive.zip"
        self.pages["/store/archive.zip"] = archive

    def hugging_face(self, files: Mapping[str, bytes], large: tuple[str, ...] = ()) -> None:
        """Hold the data set of HF, with a tag and a branch; `large` files have a SHA-256."""
        base, tree = "/api/datasets/someone/brain-slices", []
        for name, data in files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, Any] = {"type": "file", "oid": git, "size": len(data), "path": name}
            if name in large:
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            tree.append(entry)
            self.pages[f"/datasets/someone/brain-slices/resolve/{COMMIT}/{name}"] = data
        siblings = [
            {"rfilename": each["path"], "size": each["size"], "blobId": each["oid"],
             **({"lfs": {"sha256": each["lfs"]["oid"], "size": each["size"], "pointerSize": 130}}
                if "lfs" in each else {})} for each in tree
        ]  # fmt: skip
        told = {
            "id": "someone/brain-slices", "sha": COMMIT, "siblings": siblings,
            "cardData": {"license": "cc-by-4.0", "pretty_name": "Slices of brains"},
            "citation": "Somebody, 2026",
        }  # fmt: skip
        for revision in (COMMIT, "v1.0"):
            self.pages[f"{base}/revision/{revision}"] = told
        self.pages[f"{base}/tree/{COMMIT}"] = tree
        self.pages[f"{base}/refs"] = {
            "branches": [{"name": "dev", "ref": "refs/heads/dev", "targetCommit": COMMIT}],
            "tags": [{"name": "v1.0", "ref": "refs/tags/v1.0", "targetCommit": COMMIT}],
            "converts": [],
        }


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, path, self.headers.get("Range", "")))
        page = self.server.pages.get(path, 404)
        if callable(page):
            page(self)
        elif isinstance(page, int):
            self.send_response(page)
            self.send_header("Content-Length", "0")
            self.send_header("Retry-After", "7")
            if path.startswith(("/api/datasets", "/datasets")) and page == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
        elif isinstance(page, str):
            self.send_response(302)
            self.send_header("Location", page)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif isinstance(page, bytes):
            self._file(path, page, body)
        else:
            data = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Kaggle-HubVersion", "999.0.0")  # what kagglehub warns of
            self.end_headers()
            self.wfile.write(data)

    def _file(self, path: str, data: bytes, body: bool) -> None:
        start = 0
        asked = self.headers.get("Range", "")
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if path.startswith("/store/"):
            digest = b64encode(hashlib.md5(data).digest()).decode()
            self.send_header("x-goog-hash", f"md5={digest}")
        self.send_header("ETag", f'"{sha256(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return
        if path in self.server.stalled:
            self.wfile.write(data[: self.server.stalled[path]])
            self.server.reached.set()
            self.server.go_on.wait(60)
            self.close_connection = True
            return
        breaks = self.server.cut.get(path) or []
        end = start + breaks.pop(0) if breaks else len(data)
        self.wfile.write(data[start:end])
        if end < len(data):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def environment(home: Path, url: str) -> dict[str, str]:
    """What leads all libraries to one server, and their caches into one folder."""
    return {
        "HOME": str(home), "XDG_CACHE_HOME": str(home / "xdg"), "KAGGLEHUB_CACHE": str(home / "k"),
        "KAGGLE_CONFIG_DIR": str(home / "none"), "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "HF_HOME": str(home / "hf"), "HF_ENDPOINT": url, "http_proxy": url, "https_proxy": url,
        "HTTP_PROXY": url, "HTTPS_PROXY": url, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder whose caches are empty."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [*os.environ]:
        if name.startswith(("KAGGLE", "HF_", "HUGGING")):
            monkeypatch.delenv(name)
    for name, value in environment(home, service.url).items():
        monkeypatch.setenv(name, value)
    return home


@pytest.fixture
def fetch(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command within this process: its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["btc-data", "fetch", *map(str, words)])
            code = _run(command, "btc-data", "data")
        return (code, *capsys.readouterr())

    return run


def process(*words: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, which reads the environment anew."""
    return subprocess.run(line(words, before), capture_output=True, text=True, timeout=120)


def one_process(*commands: tuple[object, ...]) -> list[tuple[int, str, str]]:
    """Several commands, one after another, in a process of their own: it begins only once."""
    code = """
import contextlib, io, json, sys
from edge_runtime.commands.entry import _run
from trainer.commands.data import command
answers = []
for sys.argv[1:] in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(command, "btc-data", "data")
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""
    words = json.dumps([["fetch", *map(str, each)] for each in commands])
    done = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout)]


def line(words: tuple[object, ...], before: str = "") -> list[str]:
    code = f"{before}\nimport sys\nfrom trainer.commands.data import main\nmain()"
    return [sys.executable, "-c", code, "fetch", *map(str, words)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# A process in which no socket can be opened, nor a name be looked up.
NO_SOCKET = """
import socket
def refuse(*_, **__): raise SystemExit("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


# What is a version, and what is none.


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["kaggle:someone/slices"], "kaggle:someone/slices/versions/N"),
        (["kaggle:someone/slices/versions/0"], "kaggle:OWNER/NAME/versions/N"),
        (["kaggle:someone/slices/versions/newest"], "kaggle:OWNER/NAME/versions/N"),
        (["kaggle:../../etc/versions/1"], "kaggle:OWNER/NAME/versions/N"),
        (["kaggle:a/b/versions/1", "--sha256", "0" * 64], "--sha256 is for a URL"),
        (["hf:someone/slices"], "hf:someone/slices@REVISION"),
        (["hf:someone/slices@main"], "main is a branch"),
        (["hf:slices@v1"], "hf:OWNER/NAME@REVISION"),
        (["hf:someone/slices@../../x"], "hf:OWNER/NAME@REVISION"),
        (["https://localhost/x.zip"], "--sha256 HEX"),
        (["https://localhost/x.zip", "--sha256", "abc"], "64 hexadecimal digits"),
        (["https://me:word@localhost/x.zip", "--sha256", "0" * 64], "leave it out"),
        (["file:///etc/passwd", "--sha256", "0" * 64], "a URL with --sha256"),
        (["ftp://localhost/x", "--sha256", "0" * 64], "a URL with --sha256"),
        (["http:///x", "--sha256", "0" * 64], "a URL with --sha256"),
        (["http://[::1/x", "--sha256", "0" * 64], "a URL with --sha256"),
        (["someone/slices"], "kaggle:OWNER/NAME/versions/N"),
    ],
)  # fmt: skip
def test_what_names_no_version_is_told_what_to_type(
    fetch: Run,
    service: Service,
    tmp_path: Path,
    words: list[str],
    hint: str,
) -> None:
    code, out, err = fetch(*words, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert hint in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert service.asked == []


@settings(max_examples=300, deadline=None)
@given(st.text("kaglehf:/@.versi0N-\\ \0", max_size=30) | st.text(max_size=20))
def test_any_text_names_a_version_or_is_refused(text: str) -> None:
    for digest in (None, "0" * 64):
        try:
            found = read_origin(text, digest)
        except UsageError:
            continue
        assert ".." not in found.name.split("/")
        assert "/" not in found.name
        assert found.source


# A URL.


def asked(service: Service, path: str) -> list[str]:
    """The ranges in which a file was asked for."""
    return [each for _, where, each in service.asked if where == path]


def test_a_zip_of_class_folders_becomes_a_data_set(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    data = zipped(SLICES)
    service.pages["/slices.zip"] = data
    code, out, err = fetch(
        f"{service.url}/slices.zip", "--sha256", sha256(data).upper(), "--out", tmp_path / "out",
        "--license", "CC BY 4.0", "--source", "somewhere", "--title", "Slices",
        "--citation", "Somebody, 2026",
    )  # fmt: skip
    assert code == 0
    said = err.splitlines()
    assert said[0] == f"{service.url}/slices.zip: Slices; licence CC BY 4.0; 0.0 MiB"
    assert said[1:] == []  # README.md lies in no class folder
    assert out.splitlines()[:3] == ["files: 3 .png, 1 .md", "glioma: 2 slices", "notumor: 1 slices"]
    assert {name.removeprefix("files/"): each for name, each in contents(tmp_path / "out").items()
            if name.startswith("files/")} == SLICES  # fmt: skip
    card = find_card(tmp_path / "out")
    assert card is not None
    assert card.files["images"] == tmp_path / "out" / "files"
    assert card.tumour_free == ("notumor",)
    (source,) = card.sources
    assert (source.name, source.title, source.license) == ("somewhere", "Slices", "CC BY 4.0")
    assert (source.citation, source.sha256) == ("Somebody, 2026", sha256(data))
    assert source.url == f"{service.url}/slices.zip"
    assert (tmp_path / "out" / "groups.csv").read_text().splitlines()[1] == (
        "Testing/glioma/c.png,glioma,somewhere,,,,"
    )
    table = card.files["groups"]
    data = read_dataset(card.files["images"], Preprocess(), groups_csv=table)
    assert (data.class_names, set(data.sources)) == (("glioma", "notumor"), {"somewhere"})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "files", "groups.csv", "data.toml", "croissant.json",
    }  # fmt: skip


def test_a_finished_folder_is_refused_and_the_same_version_gives_the_same_bytes(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    data = zipped(SLICES)
    service.pages["/slices.zip"] = data
    words = (f"{service.url}/slices.zip", "--sha256", sha256(data), "--out")
    assert fetch(*words, tmp_path / "a")[0] == 0
    code, _, err = fetch(*words, tmp_path / "a")
    assert code == 2
    assert err == (
        f"btc-data: {tmp_path / 'a'} is not empty; name another --out, or use it as it is: it has "
        "a card, so it is whole\n"
    )
    before = len(service.asked)
    assert fetch(*words, tmp_path / "b")[0] == 0
    assert fetch(*words, tmp_path / "c", "--offline")[0] == 0
    assert len(service.asked) == before  # it is in the cache
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_off_goes_on(
    fetch: Run, service: Service, tmp_path: Path, ranges: bool
) -> None:
    """Twice, within one command: with what is missing, or anew where the server sends no parts."""
    data = zipped({"a/x.bin": random.Random(1).randbytes(5000)})
    service.pages["/x.zip"], service.ranges = data, ranges
    service.cut["/x.zip"] = [1000, 2000]
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out")
    code, _, err = fetch(*words)
    assert code == 0
    assert len(err.splitlines()) == 1  # size and licence are said once
    if ranges:
        assert asked(service, "/x.zip") == ["", "bytes=1000-", "bytes=3000-"]
    else:
        assert len(asked(service, "/x.zip")) == 3


def test_a_command_goes_on_with_what_one_before_it_left(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    service.cut["/x.zip"] = [100, 0, 0]
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out")
    code, out, err = fetch(*words)
    assert (code, out) == (1, "")
    assert "give the same command again: it goes on" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert (tmp_path / "out" / ".btc-data-part").read_bytes() == data[:100]
    other = (f"{service.url}/y.zip", "--sha256", sha256(data), "--out", tmp_path / "out")
    assert fetch(*other)[0] == 2  # what another command began
    service.cut.clear()
    assert fetch(*words)[0] == 0
    assert asked(service, "/x.zip")[-1] == "bytes=100-"
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("part", [b"not what the file begins with", b"x" * 100_000])
def test_a_part_that_does_not_fit_is_downloaded_anew(
    fetch: Run, service: Service, tmp_path: Path, part: bytes
) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    service.cut["/x.zip"] = [10, 0]
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out")
    assert fetch(*words)[0] == 1
    (tmp_path / "out" / ".btc-data-part").write_bytes(part)
    service.cut.clear()
    assert fetch(*words)[0] == 0


def test_a_whole_part_needs_no_server(fetch: Run, service: Service, tmp_path: Path) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    service.cut["/x.zip"] = [10, 0]
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out")
    assert fetch(*words)[0] == 1
    (tmp_path / "out" / ".btc-data-part").write_bytes(data)
    service.pages["/x.zip"] = 404
    code, _, err = fetch(*words)
    assert (code, err) == (0, f"{service.url}/x.zip: licence not stated; 0.0 MiB\n")


@pytest.mark.parametrize(
    ("page", "hint"),
    [
        (b"<html>Sign in</html>", "what came is an HTML page"),
        (404, "not found (404)"),
        (401, "sign in"),
        (403, "its terms must be accepted"),
        (429, "try again in 7 seconds"),
        (503, "is in trouble (503)"),
        (418, "refuses it (418)"),
        (204, "answers 204, no file"),
        ("/x.zip", "TooManyRedirects"),
        ("file:///etc/passwd", "InvalidSchema"),
        ("http://127.0.0.1:1/x", "no connection to 127.0.0.1"),
    ],
)
def test_what_does_not_come_costs_one_line(
    fetch: Run,
    service: Service,
    tmp_path: Path,
    page: object,
    hint: str,
) -> None:
    service.pages["/x.zip"] = page
    code, out, err = fetch(
        f"{service.url}/x.zip?token={SECRET}", "--sha256", sha256(b"x"), "--out", tmp_path / "out"
    )
    assert (code, out) == (1, "")
    assert hint in err.splitlines()[-1]
    assert len(err.splitlines()) <= 2
    assert SECRET not in err
    assert len(service.asked) <= 6  # redirects end
    assert not (tmp_path / "out").exists()  # another command may have it


def test_a_file_of_another_digest_is_not_taken_and_not_downloaded_again(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    words = (f"{service.url}/x.zip", "--out", tmp_path / "out", "--sha256")
    code, out, err = fetch(*words, "0" * 64)
    assert (code, out) == (1, "")
    assert f"has the SHA-256 {sha256(data)}, not {'0' * 64}: the file there is another" in err
    assert len(err.splitlines()) == 2
    assert not (tmp_path / "out").exists()
    assert fetch(*words, "0" * 64, "--offline")[0] == 1
    assert fetch(*words, sha256(data))[0] == 0
    assert asked(service, "/x.zip") == [""]


def test_what_is_too_large_is_refused_before_it_comes_or_when_it_is(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    data = bytes(300_000)
    service.pages["/x.bin"] = data
    words = (f"{service.url}/x.bin", "--sha256", sha256(data), "--out", tmp_path / "out")
    code, _, err = fetch(*words, "--max-size", 1e-4)
    assert code == 1
    assert "raise --max-size" in err.splitlines()[-1]

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):  # nobody reads it to its end
            while True:
                handler.wfile.write(bytes(1 << 20))
        handler.close_connection = True

    service.pages["/x.bin"] = endless
    code, _, err = fetch(*words, "--max-size", 0.01)
    assert code == 1
    assert "the limit of --max-size" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert fetch(*words, "--max-size", 0)[0] == 2
    assert fetch(*words, "--max-size", "nan")[0] == 2


def test_bytes_are_those_of_the_file_however_the_server_calls_them(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    """Some servers send a .tar.gz as a .tar that was packed for the way."""
    data = tarred({"T1/a.nii.gz": gzip.compress(b"x", mtime=0)}, "w:gz")

    def packed(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    service.pages["/IXI-T1.tar.gz"] = packed
    code, out, _ = fetch(
        f"{service.url}/IXI-T1.tar.gz", "--sha256", sha256(data), "--out", tmp_path / "out"
    )
    assert code == 0
    assert "btc-data volumes" in out
    assert [*contents(tmp_path / "out" / "files")] == ["T1/a.nii.gz"]


def test_a_secret_of_a_url_is_in_no_file(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    url = f"{service.url}/x.zip?X-Amz-Signature={SECRET}"
    assert fetch(url, "--sha256", sha256(data), "--out", tmp_path / "out")[0] == 0
    everything = contents(tmp_path / "out") | contents(home)
    assert not [name for name, each in everything.items() if SECRET.encode() in each]
    assert f'url = "{service.url}/x.zip"' in (tmp_path / "out" / "data.toml").read_text()


def test_a_full_disk_is_told(
    fetch: Run,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.prepare.fetch.web.Web._bytes", full)
    service.pages["/x.zip"] = b"x"
    code, _, err = fetch(
        f"{service.url}/x.zip", "--sha256", sha256(b"x"), "--out", tmp_path / "out"
    )
    assert code == 1
    assert "the disk is full; make room" in err.splitlines()[-1]


def test_a_full_disk_is_told_while_it_is_unpacked(
    fetch: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    monkeypatch.setattr("trainer.prepare.fetch.unpack.Unpacker._write", full)
    code, _, err = fetch(
        f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out"
    )
    assert code == 1
    assert err.splitlines()[-1] == f"btc-data: {tmp_path / 'out'}: No space left on device"


def test_what_a_card_may_not_have_is_left_out(fetch: Run, service: Service, tmp_path: Path) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    code, _, _ = fetch(
        f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out",
        "--title", "Slices\u200b\x1b[31m", "--citation", "two\nlines", "--source", "\u200e",
    )  # fmt: skip
    assert code == 0
    card = find_card(tmp_path / "out")
    assert card is not None
    (source,) = card.sources
    assert (source.name, source.title, source.citation) == ("x", "Slices[31m", "two lines")


def test_a_damaged_file_of_the_cache_is_downloaded_anew(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    data = zipped(SLICES)
    service.pages["/x.zip"] = data
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out")
    assert fetch(*words, tmp_path / "a")[0] == 0
    kept = origins.cache_folder() / sha256(data)
    assert kept.is_relative_to(home)
    kept.write_bytes(data[:-1])
    code, _, err = fetch(*words, tmp_path / "b", "--offline")
    assert code == 1
    assert "not in the cache" in err
    assert fetch(*words, tmp_path / "b")[0] == 0
    assert kept.read_bytes() == data


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("when", ["download", "keep", "unpack", "place", "table", "card"])
def test_a_command_that_is_killed_goes_on(
    fetch: Run, service: Service, tmp_path: Path, when: str
) -> None:
    """With kill -9 at any point: the next ends with the bytes of an unbroken one."""
    data = zipped({**SLICES, "more.zip": zipped({"pituitary/d.png": picture(4)})})
    service.pages["/x.zip"] = data
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out")
    killed = {
        "download": ("trainer.prepare.fetch.web", "_keep"),
        "keep": ("shutil", "move"),
        "unpack": ("trainer.prepare.fetch.unpack", "Unpacker._unpack_one"),
        "place": ("trainer.prepare.fetch.job", "_described"),
        "table": ("trainer.prepare.folder", "describe"),
        "card": ("trainer.prepare.folder", "written_card"),
    }
    module, name = killed[when]
    before = f"import os, {module}\ndef die(*_): os.kill(os.getpid(), 9)\n{module}.{name} = die\n"
    first = process(*words, tmp_path / "out", before=before)
    assert first.returncode == -signal.SIGKILL
    assert JOURNAL in {path.name for path in (tmp_path / "out").iterdir()}
    assert fetch(*words, tmp_path / "out")[0] == 0
    assert asked(service, "/x.zip") == [""]
    assert fetch(*words, tmp_path / "whole")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# Kaggle.


def test_a_version_of_kaggle_becomes_a_data_set(
    fetch: Run, service: Service, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kagglehub has to say of itself is not said; the token is used, and stands nowhere."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    service.kaggle(zipped(SLICES))
    code, out, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert (code, err) == (0, f"{KAGGLE}: Brain slices; licence CC0-1.0; 0.0 MiB\n")
    assert out.splitlines()[0] == "files: 3 .png, 1 .md"
    card = find_card(tmp_path / "out")
    assert card is not None
    (source,) = card.sources
    assert (source.name, source.title) == ("brain-slices", "Brain slices")
    assert (source.license, source.version) == ("CC0-1.0", "3")
    assert source.url == "https://www.kaggle.com/datasets/someone/brain-slices/versions/3"
    kept = contents(home / "k" / "datasets" / "someone" / "brain-slices" / "versions" / "3")
    assert kept == SLICES
    everything = contents(tmp_path / "out") | contents(home)
    assert not [name for name, each in everything.items() if SECRET.encode() in each]


def test_the_same_version_of_kaggle_asks_nothing_again(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    """Its card stays the same, too, whatever Kaggle would say of it by then."""
    service.kaggle(zipped(SLICES))
    assert fetch(KAGGLE, "--out", tmp_path / "a")[0] == 0
    service.asked.clear()
    service.pages.clear()
    assert fetch(KAGGLE, "--out", tmp_path / "b")[0] == 0
    answer = process(KAGGLE, "--out", tmp_path / "c", "--offline", before=NO_SOCKET)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.endswith("; licence CC0-1.0; 0.0 MiB; from the cache\n")
    assert service.asked == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    # Copies: what is done to them is not done to kagglehub's.
    (tmp_path / "a" / "files" / "README.md").write_bytes(b"mine")
    assert fetch(KAGGLE, "--out", tmp_path / "d")[0] == 0
    assert contents(tmp_path / "d") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    "words", [(KAGGLE,), (HF,), ("http://127.0.0.1:1/x", "--sha256", "0" * 64)]
)
def test_what_is_not_in_the_cache_is_told_without_a_connection(
    home: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    answer = process(*words, "--out", tmp_path / "out", "--offline", before=NO_SOCKET)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.endswith("without --offline where there is a connection\n")
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_another_programs_cache_serves_without_a_note(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    base = home / "k" / "datasets" / "someone" / "brain-slices"
    for name, data in SLICES.items():
        (base / "versions" / "3" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "versions" / "3" / name).write_bytes(data)
    (base / "3.complete").touch()
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "a", "--offline")
    assert code == 0
    assert "licence not stated; size not stated; from the cache" in err
    service.kaggle(b"")  # its data are not asked for
    assert fetch(KAGGLE, "--out", tmp_path / "b")[0] == 0
    assert [path for _, path, _ in service.asked] == [f"{API}/GetDataset"]
    assert contents(tmp_path / "a" / "files") == contents(tmp_path / "b" / "files")


def test_a_download_of_kaggle_goes_on(fetch: Run, service: Service, tmp_path: Path) -> None:
    """Within a command, and in the next. kagglehub writes whole MiB, and asks for a file before it
    asks for its rest, and once more before it unpacks it."""
    big = random.Random(2).randbytes(4 * MIB)
    service.kaggle(zipped({"x.bin": big}, zipfile.ZIP_STORED))
    service.cut["/store/archive.zip"] = [MIB + 9, 0, MIB + 9, 0, 0]
    assert fetch(KAGGLE, "--out", tmp_path / "out")[0] == 1
    ranges = ["", "", f"bytes={MIB}-", "", f"bytes={2 * MIB}-"]
    assert asked(service, "/store/archive.zip") == ranges
    service.cut.clear()
    service.asked.clear()
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert (code, len(err.splitlines())) == (0, 1)
    assert asked(service, "/store/archive.zip") == ["", f"bytes={2 * MIB}-", ""]
    assert contents(tmp_path / "out" / "files") == {"x.bin": big}


def test_an_archive_that_kagglehub_cannot_read_does_not_stay(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    service.kaggle(b"neither a zip nor a tar")
    code, out, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "what came is damaged, and was deleted" in err.splitlines()[-1]
    assert len(err.splitlines()) == 2
    service.kaggle(zipped(SLICES))
    assert fetch(KAGGLE, "--out", tmp_path / "out")[0] == 0


def test_a_version_that_kaggle_does_not_have(fetch: Run, service: Service, tmp_path: Path) -> None:
    service.kaggle(zipped(SLICES), newest=2)
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert code == 1
    assert err == f"btc-data: {KAGGLE}: Kaggle has no such version; the newest is 2\n"
    service.kaggle(zipped(SLICES), newest=5)  # its size is that of the newest
    assert "size not stated" in fetch(KAGGLE, "--out", tmp_path / "out")[2]


@pytest.mark.parametrize("of", ["GetDataset", "DownloadDataset"])
@pytest.mark.parametrize(
    ("page", "hint"),
    [
        (404, "not found (404)"),
        (401, "KAGGLE_API_TOKEN"),
        (403, "its terms must be accepted"),
        (429, "try again in 7 seconds"),
        (500, "is in trouble (500)"),
        ({"code": 403, "message": SECRET}, "its terms must be accepted"),
    ],
)
def test_what_kaggle_refuses_costs_one_line(
    fetch: Run, service: Service, tmp_path: Path, of: str, page: object, hint: str
) -> None:
    service.kaggle(zipped(SLICES))
    service.pages[f"{API}/{of}"] = page
    code, out, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert hint in err.splitlines()[-1]
    assert len(err.splitlines()) == (1 if of == "GetDataset" else 2)
    assert SECRET not in err


def test_no_connection_to_kaggle(
    fetch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert code == 1
    assert "no connection to Kaggle" in err
    assert len(err.splitlines()) == 1


def test_what_kaggle_says_is_large_is_refused(fetch: Run, service: Service, tmp_path: Path) -> None:
    service.kaggle(zipped({"x.bin": random.Random(3).randbytes(200_000)}))
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "out", "--max-size", 1e-4)
    assert code == 1
    assert "raise --max-size" in err.splitlines()[-1]
    assert asked(service, "/store/archive.zip") == []


def test_links_in_kagglehubs_cache_are_not_followed(
    fetch: Run, service: Service, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").write_bytes(SECRET.encode())
    service.kaggle(zipped(SLICES))
    assert fetch(KAGGLE, "--out", tmp_path / "a")[0] == 0
    cached = home / "k" / "datasets" / "someone" / "brain-slices" / "versions" / "3"
    (cached / "x.png").symlink_to(tmp_path / "private")
    (cached / "more").symlink_to(tmp_path, target_is_directory=True)
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "b")
    assert code == 0
    assert err.splitlines()[1:] == [f"more, x.png: {unpack.LINK}; skipped"]
    assert contents(tmp_path / "a" / "files") == contents(tmp_path / "b" / "files")


# Hugging Face. Its library reads the environment once: processes of their own.


def test_a_commit_of_hugging_face_becomes_a_data_set(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.hugging_face({**SLICES, ".gitattributes": b"*"}, large=("Training/glioma/a.png",))
    answer = process(HF, "--out", tmp_path / "a")
    assert answer.returncode == 0, answer.stderr
    told, *others = answer.stderr.splitlines()
    assert told == f"{HF}: Slices of brains; licence cc-by-4.0; 0.0 MiB"
    assert others == [f".gitattributes: {unpack.HIDDEN}; skipped"]
    card = find_card(tmp_path / "a")
    assert card is not None
    (source,) = card.sources
    assert (source.name, source.license) == ("brain-slices", "cc-by-4.0")
    assert (source.citation, source.version) == ("Somebody, 2026", COMMIT)
    assert source.url == f"https://huggingface.co/datasets/someone/brain-slices/tree/{COMMIT}"
    assert contents(tmp_path / "a" / "files") == SLICES
    assert not any(path.is_symlink() for path in (tmp_path / "a").rglob("*"))
    assert not [path for _, path, _ in service.asked if "telemetry" in path]
    service.asked.clear()
    offline = process(HF, "--out", tmp_path / "b", "--offline", before=NO_SOCKET)
    assert offline.returncode == 0, offline.stderr
    assert service.asked == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # A blob that was altered is told; nothing of it is taken.
    (home / "hf/hub/datasets--someone--brain-slices/blobs" / sha256(SLICES["Training/glioma/a.png"])
     ).write_bytes(b"altered")  # fmt: skip
    altered = process(HF, "--out", tmp_path / "c")
    assert altered.returncode == 1
    assert "Training/glioma/a.png in the cache is damaged; delete " in altered.stderr
    assert not (tmp_path / "c").exists()


def test_a_tag_is_a_version_and_a_branch_is_none(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.hugging_face(SLICES)
    name = "hf:someone/brain-slices"
    hints = {
        f"{name}@dev": f"today it is {HF}",
        f"{name}@0123456": "all 40 digits of its hash",
        "hf:someone/brain-@v1.0": "no data set can have this name",
    }
    *refused, taken = one_process(
        *((words, "--out", tmp_path / "out") for words in hints),
        (f"{name}@v1.0", "--out", tmp_path / "a"),
    )
    for (code, out, err), hint in zip(refused, hints.values(), strict=True):
        assert (code, out) == (2, "")
        assert hint in err
        assert len(err.splitlines()) == 1
    assert taken[0] == 0, taken
    offline = process(f"{name}@v1.0", "--out", tmp_path / "b", "--offline", before=NO_SOCKET)
    assert offline.returncode == 0, offline.stderr
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_download_of_hugging_face_goes_on(service: Service, home: Path, tmp_path: Path) -> None:
    """Within a command. Its library writes 10 MiB at once."""
    data = random.Random(5).randbytes(11 * MIB)
    service.hugging_face({"x.bin": data})
    path = f"/datasets/someone/brain-slices/resolve/{COMMIT}/x.bin"
    service.cut[path] = [10 * MIB + 9]
    answer = process(HF, "--out", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert f"bytes={10 * MIB}-" in asked(service, path)
    assert contents(tmp_path / "out" / "files") == {"x.bin": data}


def test_a_snapshot_that_is_not_whole_is_not_taken_offline(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.hugging_face(SLICES)
    assert process(HF, "--out", tmp_path / "a").returncode == 0
    snapshots = home / "hf/hub/datasets--someone--brain-slices/snapshots"
    (snapshots / COMMIT / "Training/glioma/a.png").unlink()
    answer = process(HF, "--out", tmp_path / "b", "--offline", before=NO_SOCKET)
    assert answer.returncode == 1
    assert "not in the cache, or not all of it" in answer.stderr
    assert process(HF, "--out", tmp_path / "b").returncode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_hugging_face_refuses_costs_one_line(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.hugging_face(SLICES)
    pages: dict[str, tuple[Any, str]] = {
        "1": (404, "not found (404)"), "2": (401, "HF_TOKEN"),
        "3": (429, "try again in 7 seconds"), "4": (b"<html>", "is not understood"),
    }  # fmt: skip
    commits = {digit * 40: page for digit, page in pages.items()}
    for commit, (page, _) in commits.items():
        service.pages[f"/api/datasets/someone/brain-slices/revision/{commit}"] = page
    commands = [(f"hf:someone/brain-slices@{commit}", "--out", tmp_path / "out")
                for commit in commits]  # fmt: skip
    for (code, out, err), (_, hint) in zip(one_process(*commands), commits.values(), strict=True):
        assert (code, out) == (1, "")
        assert hint in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_connection_to_hugging_face(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    answer = process(HF, "--out", tmp_path / "out")
    assert answer.returncode == 1
    assert "no connection to Hugging Face" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("of", ["kaggle", "url"])
def test_a_command_that_is_killed_while_bytes_come_goes_on_with_them(
    fetch: Run, service: Service, tmp_path: Path, of: str
) -> None:
    data = zipped({"x.bin": random.Random(7).randbytes(3 * MIB)}, zipfile.ZIP_STORED)
    service.kaggle(data)
    service.pages["/x.zip"] = data
    words, path = {
        "kaggle": ((KAGGLE,), "/store/archive.zip"),
        "url": ((f"{service.url}/x.zip", "--sha256", sha256(data)), "/x.zip"),
    }[of]
    service.stalled[path] = 2 * MIB + 9
    kill(service, (*words, "--out", tmp_path / "out"), lambda: largest(tmp_path) >= 2 * MIB)
    assert fetch(*words, "--out", tmp_path / "out")[0] == 0
    begun = [int(each[6:].partition("-")[0]) for each in asked(service, path) if each]
    assert begun
    assert min(begun) >= 2 * MIB
    assert fetch(*words, "--out", tmp_path / "whole")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_command_that_is_killed_goes_on_with_whole_files_of_hugging_face(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.hugging_face(SLICES)
    paths = [f"/datasets/someone/brain-slices/resolve/{COMMIT}/{name}" for name in SLICES]
    service.stalled[paths[0]] = 9
    snapshots = home / "hf/hub/datasets--someone--brain-slices/snapshots"
    kill(service, (HF, "--out", tmp_path / "out"), lambda: len(contents(snapshots)) == 3)
    assert process(HF, "--out", tmp_path / "out").returncode == 0
    assert {path for way, path, _ in service.asked if way == "GET" and path in paths} == {paths[0]}
    assert contents(tmp_path / "out" / "files") == SLICES


def kill(service: Service, words: tuple[object, ...], come: Callable[[], bool]) -> None:
    """End the command with kill -9 when an answer stalls and `come` is true."""
    with subprocess.Popen(line(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        assert service.reached.wait(60)
        while not come():  # what is on its way
            assert first.poll() is None
        first.kill()
    service.go_on.set()
    service.stalled.clear()
    service.asked.clear()


def largest(folder: Path) -> int:
    """Bytes of the largest file below."""
    return max(path.stat().st_size for path in folder.rglob("*"))


def test_a_command_that_is_killed_while_kagglehub_unpacks_goes_on(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.kaggle(zipped(SLICES))
    die = (
        "import os, zipfile\nzipfile.ZipFile.extractall = lambda *_, **__: os.kill(os.getpid(), 9)"
    )
    first = process(KAGGLE, "--out", tmp_path / "out", before=die)
    assert first.returncode == -signal.SIGKILL
    assert process(KAGGLE, "--out", tmp_path / "out").returncode == 0
    assert contents(tmp_path / "out" / "files") == SLICES


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (zipped({"a.png": bytes(40 * MIB)}), "unpacks beyond reason"),
        (tarred({"a.png": bytes(40 * MIB)}, "w:gz"), "unpacks beyond reason"),
        (b"", "damaged"),
    ],
)
def test_what_kagglehub_would_unpack_beyond_reason_is_refused(
    fetch: Run, service: Service, home: Path, tmp_path: Path, data: bytes, hint: str
) -> None:
    service.kaggle(data)
    code, out, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert hint in err.splitlines()[-1]
    assert not [name for name in contents(home) if "/versions/" in name or ".archive" in name]


@pytest.mark.parametrize("kind", [ZIP, TAR])
def test_what_points_outside_of_kagglehubs_cache_stays_within(
    fetch: Run, service: Service, home: Path, tmp_path: Path, kind: str
) -> None:
    """kagglehub itself sees to that: of a tar it refuses all, of a zip it mends the names."""
    data = (zipped if kind == ZIP else tarred)({"../../../../../x.txt": b"x", "/y.txt": b"y"})
    service.kaggle(data)
    code, _, err = fetch(KAGGLE, "--out", tmp_path / "out")
    assert code == (0 if kind == ZIP else 1)
    assert len(err.splitlines()) == (1 if kind == ZIP else 2)
    for path in tmp_path.rglob("*.txt"):
        below = home / "k" / "datasets" / "someone" / "brain-slices" / "versions" / "3"
        assert path.is_relative_to(below) or path.is_relative_to(tmp_path / "out" / "files")


def test_a_name_that_points_outside_of_hugging_faces_cache_is_refused(
    service: Service, home: Path, tmp_path: Path
) -> None:
    service.hugging_face({"../../../../../evil.txt": b"x"})
    answer = process(HF, "--out", tmp_path / "out")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert len(answer.stderr.splitlines()) == 2
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.parametrize(
    ("words", "name"),
    [((KAGGLE,), "kagglehub"), ((HF,), "huggingface_hub"),
     (("http://127.0.0.1:1/x", "--sha256", "0" * 64), "requests")],
)  # fmt: skip
def test_a_missing_package_is_named(
    home: Path, tmp_path: Path, words: tuple[str, ...], name: str
) -> None:
    before = f"import sys\nsys.modules[{name!r}] = None"
    answer = process(*words, "--out", tmp_path / "out", before=before)
    assert answer.returncode == 2
    hint = f"the package {name} is missing: pip install 'btc-edge[data]'"
    assert answer.stderr == f"btc-data: {hint}\n"


def test_help_imports_none_of_the_libraries(home: Path) -> None:
    before = (
        "import sys\nfor name in ('numpy', 'requests', 'kagglehub', 'huggingface_hub', 'rich'):"
        "\n    sys.modules[name] = None"
    )
    answer = process("--help", before=before)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "--offline" in answer.stdout


def test_what_is_in_no_table_is_told(fetch: Run, service: Service, tmp_path: Path) -> None:
    others = {"cover.png": picture(9), "mystery": picture(8), "Training/glioma/notes.txt": b"x",
              ".hidden/a.png": b"x", "Testing/v.dcm": b"x"}  # fmt: skip
    data = zipped({**SLICES, **others})
    service.pages["/x.zip"] = data
    words = (f"{service.url}/x.zip", "--sha256", sha256(data), "--out", tmp_path / "out")
    code, out, err = fetch(*words)
    assert code == 0
    assert [each.partition(":")[0] for each in err.splitlines()[1:]] == [
        ".hidden/a.png", "Training/glioma/notes.txt", "Testing/v.dcm, cover.png, mystery",
    ]  # fmt: skip
    assert "dropped, 3: a picture in no class folder" in out
    rows = (tmp_path / "out" / "groups.csv").read_text().splitlines()
    assert len(rows) == 4
    assert fetch(*words[:3], "--out", tmp_path / "b", "--citation", "x" * 2001)[0] == 2


# What archives hold.


def unpacked(tmp_path: Path, data: bytes, kind: str = ZIP) -> Unpacker:
    """The files of an archive, and of those within."""
    root = tmp_path / "inner" / "root"
    root.mkdir(parents=True)
    (tmp_path / "x").write_bytes(data)
    unpacker = Unpacker(root)
    unpacker.unpack(tmp_path / "x", kind, "x")
    unpacker.unpack_within()
    return unpacker


def info(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "a\\..\\..\\x", "\\x"])
@pytest.mark.parametrize("kind", [ZIP, TAR])
@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_that_points_outside_is_refused_whole(
    fetch: Run, service: Service, tmp_path: Path, name: str, kind: str, nested: bool
) -> None:
    data = (zipped if kind == ZIP else tarred)({"a.txt": b"a", name: b"b"})
    if nested:
        data = zipped({f"inner.{kind}": data})
    service.pages["/x"] = data
    words = (f"{service.url}/x", "--sha256", sha256(data), "--out", tmp_path / "deep" / "out")
    code, out, err = fetch(*words)
    assert (code, out) == (1, "")
    assert "points outside the archive; refused" in err.splitlines()[-1]
    assert len(err.splitlines()) == 2
    assert not list(tmp_path.rglob("*.txt"))
    assert not list((tmp_path / "deep").iterdir())


def test_links_and_devices_of_a_tar_are_told_and_not_made(tmp_path: Path) -> None:
    """A file under the name of a link before it is a file of its own, in our folder."""
    (tmp_path / "victim").write_bytes(b"as it was")
    members = {
        "out": info("out", tarfile.SYMTYPE, str(tmp_path)),
        "out/victim": b"altered",
        "hard": info("hard", tarfile.LNKTYPE, "../../victim"),
        "pipe": info("pipe", tarfile.FIFOTYPE),
        "device": info("device", tarfile.CHRTYPE),
    }
    unpacker = unpacked(tmp_path, tarred(members), TAR)
    assert contents(tmp_path / "inner") == {"root/out/victim": b"altered"}
    assert (tmp_path / "victim").read_bytes() == b"as it was"
    assert unpacker.left_out == {unpack.LINK: ["out", "hard"], SPECIAL: ["pipe", "device"]}


def test_links_of_a_zip_are_told_and_not_made(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("out")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(tmp_path))
        archive.writestr("a/b.txt", b"b")
    unpacker = unpacked(tmp_path, buffer.getvalue())
    assert unpacker.left_out == {unpack.LINK: ["out"]}
    assert [*unpacker.files] == ["a/b.txt"]


def sparse_tar() -> bytes:
    """A few bytes that claim to be a file of a GiB, by GNU's header of old."""
    header = bytearray(info("x", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (1 << 30)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ZIP, zipped({"a.png": bytes(40 * MIB)})),
        (TAR, tarred({"a.png": bytes(40 * MIB)}, "w:gz")),
        # Hidden, so it would not be written: but it would be unpacked.
        (TAR, tarred({".a": bytes(40 * MIB), "b": b"b"}, "w:gz")),
    ],
)  # fmt: skip
def test_what_unpacks_beyond_reason_is_refused(tmp_path: Path, kind: str, data: bytes) -> None:
    assert len(data) < 200_000
    with pytest.raises(DataError, match="unpacks beyond reason"):
        unpacked(tmp_path, data, kind)
    assert contents(tmp_path / "inner") == {}


def test_too_many_files_or_bytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all archives together."""
    data = zipped({"a.zip": zipped({"1": b"x" * 900, "2": b"x"}), "b": b"b"}, zipfile.ZIP_STORED)
    with monkeypatch.context() as patch:
        patch.setattr(unpack, "MAX_MEMBERS", 3)
        with pytest.raises(DataError, match="more than 3 files"):
            unpacked(tmp_path / "1", data)
    monkeypatch.setattr(unpack, "MAX_TOTAL_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to more than"):
        unpacked(tmp_path / "2", data)


@pytest.mark.parametrize(
    "members", [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b", "a//b"], ["a/b", "./a\\b"]]
)
@pytest.mark.parametrize("kind", [ZIP, TAR])
def test_a_name_twice_is_refused(tmp_path: Path, kind: str, members: list[str]) -> None:
    buffer = io.BytesIO()
    if kind == ZIP:
        with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in members:
                entry = zipfile.ZipInfo("x")
                entry.filename = name
                archive.writestr(entry, b"x")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in members:
                tar.addfile(info(name))
    with pytest.raises(DataError, match="two members are called"):
        unpacked(tmp_path, buffer.getvalue(), kind)


def test_a_member_that_cannot_be_read_costs_itself_only(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"first-first", "b.txt": b"b"}, zipfile.ZIP_STORED))
    data[data.index(b"first-first")] ^= 0xFF
    buffer = io.BytesIO(bytes(data))
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, method in [("c.txt", zipfile.ZIP_LZMA), ("d" * 300, zipfile.ZIP_STORED),
                             (".e", zipfile.ZIP_STORED)]:  # fmt: skip
            archive.writestr(name, b"x", method)
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"b.txt"))
    data[at + 8] |= 1  # b.txt is encrypted, says the directory
    unpacker = unpacked(tmp_path, bytes(data))
    assert unpacker.files == {}
    assert contents(tmp_path / "inner") == {}
    assert unpacker.left_out == {
        unpack.DAMAGED: ["a.txt"], unpack.ENCRYPTED: ["b.txt"], unpack.METHOD: ["c.txt"],
        unpack.NAME: ["d" * 300], unpack.HIDDEN: [".e"],
    }  # fmt: skip


def test_names_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    members = {"a\udcff.png": b"x", "ok.png": b"y"}
    with tarfile.open(tmp_path / "t", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            archive.addfile(info(name, size=1), io.BytesIO(data))
    unpacker = unpacked(tmp_path, (tmp_path / "t").read_bytes(), TAR)
    assert [*unpacker.files] == ["ok.png"]
    assert [*unpacker.left_out] == [unpack.NAME]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("end", "more"),
    [(200, 512), (512, 0), (512, 100), (700, 0), (1024, 5), (1024, 512), (1536, 0), (1700, 512)],
)
def test_a_tar_that_is_cut_off_is_damaged(tmp_path: Path, mode: str, end: int, more: int) -> None:
    """Between members, too: tarfile itself takes what is no header for the end."""
    whole = tarred({"a": b"a" * 512, "b": b"b"})
    data = whole[:end] + b"\x01" * more
    with pytest.raises(Damaged):
        unpacked(tmp_path, data if mode == "w" else gzip.compress(data), TAR)
    assert contents(tmp_path / "inner") == {}


def test_a_sparse_file_and_a_negative_size_do_no_harm(tmp_path: Path) -> None:
    unpacker = unpacked(tmp_path / "1", sparse_tar(), TAR)
    assert unpacker.left_out == {SPECIAL: ["x"]}
    back = info("x")
    back.pax_headers = {"size": "-1536"}  # to where its own header begins
    data = info("a").tobuf() + back.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    with pytest.raises(Damaged):
        unpacked(tmp_path / "2", data, TAR)


def test_a_header_is_not_read_at_once_however_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "MAX_HEADER", MIB)
    name = info("x", tarfile.GNUTYPE_LONGNAME, size=2 * MIB).tobuf() + bytes(2 * MIB)
    with pytest.raises(DataError, match="unpacks beyond reason"):
        unpacked(tmp_path, name + info("x").tobuf() + bytes(1024), TAR)


def test_archives_within_are_unpacked_each_into_a_folder_of_its_name(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    """As figshare's of Cheng: a zip of zips of .mat. What is no archive of files is left alone."""
    others = {"v.nii.gz": gzip.compress(b"v", mtime=0), "n.npz": zipped({"a.npy": b"a"}),
              "bad.zip": b"PK\x03\x04 and no more", "same.zip": zipped({"b": b"b"}),
              "same/a": b"a", "more.rar": b"Rar!"}  # fmt: skip
    data = zipped(
        {"brain_1-766.zip": zipped({"1.mat": b"1", "2.mat": b"2"}),
         "brain_767-1532.zip": zipped({"1.mat": b"767"}),
         "T1/more.tar.gz": tarred({"d/x.dcm": b"x", "y.tgz": tarred({"y": b"y"}, "w:gz")}, "w:gz"),
         **others}
    )  # fmt: skip
    service.pages["/ndownloader/files/3381290"] = data
    code, out, err = fetch(
        f"{service.url}/ndownloader/files/3381290", "--sha256", sha256(data),
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert contents(tmp_path / "out" / "files") == {
        "brain_1-766/1.mat": b"1", "brain_1-766/2.mat": b"2", "brain_767-1532/1.mat": b"767",
        "T1/more/d/x.dcm": b"x", "T1/more/y/y": b"y", **others,
    }  # fmt: skip
    assert err.splitlines()[1:] == [
        f"bad.zip: {unpack.LEFT_PACKED}; skipped", f"same.zip: {unpack.BESIDE}; skipped",
        f"more.rar: {unpack.OTHER_PACKER}; skipped",
    ]  # fmt: skip
    assert f"btc-data cheng {tmp_path / 'out'} --out {tmp_path / 'out-slices'}" in out
    card = find_card(tmp_path / "out")
    assert card is not None
    assert card.sources[0].sha256 == sha256(data)
    assert not (tmp_path / "out" / "groups.csv").exists()


def test_archives_in_archives_in_archives_end(tmp_path: Path) -> None:
    data = b"x"
    for _ in range(6):
        data = zipped({"a.zip": data})
    unpacker = unpacked(tmp_path, data)
    assert [*unpacker.files] == ["a/a/a/a.zip"]
    assert unpacker.left_out == {unpack.TOO_DEEP: ["a/a/a/a.zip"]}


def test_a_file_that_is_no_archive_is_kept_under_its_name(
    fetch: Run, service: Service, tmp_path: Path
) -> None:
    for number, (path, name) in enumerate(
        [("/deep/v.nii.gz", "v.nii.gz"), ("/..%2F..%2Fv.nii", "v.nii"), ("/", "download")]
    ):
        data = gzip.compress(bytes(600), mtime=number)
        service.pages[path] = data
        out = tmp_path / f"{number}"
        assert fetch(service.url + path, "--sha256", sha256(data), "--out", out)[0] == 0
        assert contents(out / "files") == {name: data}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("./\\:aC\0", max_size=6) | st.text(max_size=4), max_size=4),
    st.sampled_from([ZIP, TAR]),
)
def test_whatever_members_are_called_nothing_leaves_the_folder(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str
) -> None:
    place = tmp_path_factory.mktemp("any")
    buffer = io.BytesIO()
    if kind == ZIP:
        with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                entry = zipfile.ZipInfo("x")
                entry.filename = name
                with suppress(UnicodeEncodeError):
                    archive.writestr(entry, b"x")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in names:
                with suppress(UnicodeEncodeError):
                    tar.addfile(info(name, size=1), io.BytesIO(b"x"))
    with suppress(DataError):
        unpacker = unpacked(place, buffer.getvalue(), kind)
        below = contents(place / "inner" / "root")
        assert set(below.values()) <= {b"x"}
        assert set(below) == set(unpacker.files)
    assert {path.name for path in place.iterdir()} == {"inner", "x"}
    assert {path.name for path in (place / "inner").iterdir()} == {"root"}
