"""Archives in an object store, and answers into one: a server that speaks S3, on this machine."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("moto.server")
pytest.importorskip("pyarrow")

import pyarrow.parquet as pq
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSystem

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.archive.manifest import Manifest, exists
from edge_runtime.archive.places import CHANGED, Objects
from edge_runtime.archive.rows import count, make_shard
from edge_runtime.archive.sources import ONE, open_source
from edge_runtime.classifier import Classifier
from edge_runtime.errors import DataError, InputError, UsageError
from edge_runtime.imaging.limits import ImageLimits
from tests.archive.conftest import answer, make, mixed_files, rows_of, write_files, zip_of

SECRET = "a-secret-of-this-test"
PICTURE = encode(draw_slice(1))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The options of addresses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        served = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        served.start()
        try:
            host, port = served.get_host_and_port()
            yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        finally:
            served.stop()


class Bucket:
    """A new bucket."""

    def __init__(self, options: str) -> None:
        self._options, self.name = options, f"b{uuid4().hex}"
        more = "&allow_bucket_creation=true"
        self.files, _ = FileSystem.from_uri(f"s3://{self.name}{options}{more}")
        self.files.create_dir(self.name)

    def address(self, path: str) -> str:
        return f"s3://{self.name}/{path}{self._options}"

    def put(self, path: str, data: bytes) -> None:
        with self.files.open_output_stream(f"{self.name}/{path}", compression=None) as stream:
            stream.write(data)

    def get(self, path: str) -> bytes:
        with self.files.open_input_file(f"{self.name}/{path}") as stream:
            data: bytes = stream.read()
            return data


@pytest.fixture
def bucket(server: str) -> Bucket:
    return Bucket(server)


def sorted_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["path"], str(row["slice"])))


def test_an_archive_in_a_store_gives_the_rows_of_the_same_folder(
    bucket: Bucket, tmp_path: Path, classifier: Classifier
) -> None:
    asked = ("pictures/0", "study", "volumes", "bad/e", "bad/half")
    files = {name: data for name, data in mixed_files().items() if name.startswith(asked)} | {
        "z/slices.zip": zip_of({"d/1.jpg": PICTURE, "t.txt": b"t"}),
        "odd/é #+%41 a.jpg": PICTURE,
    }
    for name, data in files.items():
        bucket.put(f"in/{name}", data)
    here, local = make(classifier, write_files(tmp_path / "in", files), tmp_path / "out")
    answer(classifier, here, local)
    there, remote = make(classifier, bucket.address("in"), bucket.address("results/1"))
    answer(classifier, pickle.loads(pickle.dumps(there)), remote)
    wanted = rows_of(local)
    assert rows_of(remote) == wanted
    assert len(wanted) > 20
    assert remote.head["kinds"] == local.head["kinds"]
    numbers = range(local.shards)
    assert count(remote, numbers) == count(local, numbers)
    for number in numbers:
        table = pq.read_table(local.path_of(number))
        assert pq.read_table(remote.path_of(number), filesystem=bucket.files).equals(table)


def test_a_file_takes_three_requests(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the guide says, to whom stores charge them."""
    for name in ("1.jpg", "IM1"):
        bucket.put(f"in/{name}", PICTURE)
    source = open_source(bucket.address("in"))
    asked: list[tuple[str, str]] = []
    serve = DomainDispatcherApplication.__call__

    def counted(app: Any, environ: dict[str, Any], start: Any) -> Any:
        asked.append((environ["REQUEST_METHOD"], Path(environ["PATH_INFO"]).name))
        return serve(app, environ, start)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", counted)
    named, other = sorted(source.entries(print), key=lambda entry: entry.path)
    assert asked == [("GET", bucket.name), ("HEAD", "IM1"), ("GET", "IM1")]
    for entry, name in ((named, "1.jpg"), (other, "IM1")):
        asked.clear()
        source.read(entry, ImageLimits())
        assert asked == [("HEAD", name), ("GET", name), ("HEAD", name)]


def test_a_second_run_does_what_is_missing_in_the_store(
    bucket: Bucket, tmp_path: Path, classifier: Classifier
) -> None:
    for i in range(5):
        bucket.put(f"in/{i}.jpg", encode(draw_slice(i)))
    out = bucket.address("out")
    assert not exists(out)
    source, manifest = make(classifier, bucket.address("in"), out, 2)
    answer(classifier, source, manifest, [2, 0])
    again = Manifest.open(out)
    assert again.missing() == [1]
    answer(classifier, source, again)
    before = bucket.get("out/shards/00000001.parquet")
    bucket.files.delete_file(again.path_of(1))
    assert again.missing() == [1]
    answer(classifier, source, again)
    assert bucket.get("out/shards/00000001.parquet") == before
    assert again.missing() == []
    bucket.put("out/manifest/part-00000.parquet", b"PAR1")
    with pytest.raises(DataError, match="damaged or altered"):
        Manifest.open(out).shard(0)


def test_no_credential_is_written(bucket: Bucket, classifier: Classifier) -> None:
    bucket.put("in/a.jpg", PICTURE)
    source, manifest = make(classifier, bucket.address("in"), bucket.address("out"))
    answer(classifier, source, manifest)
    written = [bucket.get(path) for path in ("out/manifest.json", "out/shards/00000000.parquet")]
    assert not any(SECRET.encode() in data or b"testing" in data for data in written)
    assert SECRET.encode() not in pickle.dumps((source, manifest))
    assert json.loads(written[0])["source"] == bucket.address("in")


def test_an_object_that_changed_or_went_is_a_row(bucket: Bucket, classifier: Classifier) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "z.zip"):
        bucket.put(f"in/{name}", zip_of({"m.jpg": PICTURE}) if name == "z.zip" else PICTURE)
    source, manifest = make(classifier, bucket.address("in"), bucket.address("out"))
    bucket.put("in/a.jpg", PICTURE + b" ")
    bucket.put("in/z.zip", b"PK\3\4")
    bucket.files.delete_file(f"{bucket.name}/in/b.jpg")
    answer(classifier, source, manifest)
    errors = {row["path"]: row["error"] for row in rows_of(manifest)}
    assert errors == {
        "a.jpg": CHANGED, "b.jpg": f"{CHANGED}: no such file", "c.jpg": None, "z.zip": CHANGED,
    }  # fmt: skip


def test_lists_hold_addresses_beside_paths(
    bucket: Bucket, tmp_path: Path, classifier: Classifier
) -> None:
    bucket.put("in/a.jpg", PICTURE)
    bucket.put("in/deep/b.jpg", PICTURE)
    local = write_files(tmp_path, {"c.jpg": PICTURE}) / "c.jpg"
    words = [bucket.address("in/a.jpg"), str(local), bucket.address("in/no.jpg")]
    (tmp_path / "list").write_text("\n".join(words))
    source, manifest = make(classifier, tmp_path / "list", tmp_path / "out")
    answer(classifier, source, manifest)
    rows = rows_of(manifest)
    assert [row["path"] for row in rows] == words
    assert [row["error"] for row in rows] == [None, None, "no such file"]
    assert rows[0]["sha256"] == rows[1]["sha256"]
    assert open_source(words[0]).form == ONE


def test_large_objects_are_refused_unread(bucket: Bucket) -> None:
    bucket.put("in/a.png", bytes(2000))
    source = open_source(bucket.address("in"))
    (entry,) = source.entries()
    with pytest.raises(InputError, match="larger than the limit"):
        source.read(entry, ImageLimits(max_bytes=1000))


def test_what_is_not_there_is_no_archive(bucket: Bucket) -> None:
    for word in (bucket.address("none"), bucket.address("").replace(bucket.name, "b" * 20)):
        with pytest.raises(UsageError, match="no such folder, list or address"):
            open_source(word)
    bucket.put("words", b"a.jpg\n")
    with pytest.raises(UsageError, match="list of paths on this machine"):
        open_source(bucket.address("words"))


def test_a_store_that_fails_is_no_fault_of_a_file(
    bucket: Bucket, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard with such answers would be taken for done."""
    bucket.put("in/a.jpg", PICTURE)
    bucket.put("in/z.zip", zip_of({"m.jpg": PICTURE}))
    source, manifest = make(classifier, bucket.address("in"), bucket.address("out"))
    shard = manifest.shard(0)
    failing = FailingFiles(bucket.files)
    monkeypatch.setattr(Objects, "_system", failing)
    source = pickle.loads(pickle.dumps(source))  # as it comes to a worker
    for entry in shard.entries:
        part = shard._replace(entries=(entry,))
        failing.left = 1000
        whole = make_shard(classifier, source, part)
        calls = 1000 - failing.left
        assert calls > 2
        for number in range(calls):
            failing.left = number
            with pytest.raises(DataError, match="slow down"):
                make_shard(classifier, source, part)
        failing.left = calls
        assert make_shard(classifier, source, part).equals(whole)


class FailingFiles:
    """Files of a store that fails from some call on."""

    def __init__(self, files: Any) -> None:
        self._files, self.left = files, 0

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self._files, name)
        if not callable(whole) or name in ("tell", "close"):  # which ask nobody
            return whole

        def call(*words: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError("AWS Error SLOW_DOWN: slow down")
            found = whole(*words)
            return FailingStream(found, self) if name == "open_input_file" else found

        return call


class FailingStream(FailingFiles):
    """An object of such a store."""

    def __init__(self, files: Any, store: FailingFiles) -> None:
        self.__dict__.update(_files=files, _store=store)

    @property
    def left(self) -> int:
        return self._store.left

    @left.setter
    def left(self, value: int) -> None:
        self._store.left = value
