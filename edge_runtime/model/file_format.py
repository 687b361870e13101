"""One file is the whole model: packing it and checking it, as bytes.

A `.tflite` carries a zip behind its flatbuffer with `labels.txt` and `model.json`, where the
TFLite Metadata convention has them; interpreters ignore what is appended and `zipfile` finds it.
The zip's comment is the digest of everything before it.
An `.onnx` carries the same JSON as its last top-level field, an entry of `metadata_props`; the
entry before it holds the JSON's digest.
Either way the graph is a prefix of the file, and its digest is in the metadata: an altered file
is refused before any interpreter sees it. (A flipped byte in a .tflite mostly runs without error,
and sometimes kills the process.) A digest tells of damage, not of who made the file.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace

from edge_runtime.errors import ModelError, UnsignedModelError
from edge_runtime.model.metadata import ModelInfo

MAX_INFO_BYTES = 4 << 20
ONNX_KEY = b"model.json"
ONNX_DIGEST_KEY = b"model.json.sha256"

DIGEST_LENGTH = 64  # hexadecimal SHA-256

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes


@dataclass(frozen=True)
class ModelFile:
    """A checked model: its metadata, the graph's bytes and where they came from.

    Attributes:
        format: `tflite` or `onnx`.
        sha256: digest of the whole file, hexadecimal.
        bytes: size of the whole file.
    """

    info: ModelInfo
    graph: bytes
    format: str
    sha256: str
    bytes: int

    @property
    def tag(self) -> str:
        """Name for results and logs, as `brain-mri 0.1.0 int8 1a2b3c4d`."""
        return f"{self.info.name} {self.info.version} {self.info.scheme} {self.sha256[:8]}"


def parse_model(data: bytes) -> ModelFile:
    """Check the bytes of a model file and take them apart.

    Raises:
        UnsignedModelError: no digest to check it by. ModelError: truncated, altered, without
            metadata, or with metadata that this version does not know.
    """
    if is_tflite(data):
        _check_comment(data)
        graph, text, labels = split_tflite(data)
        kind = "tflite"
    else:
        graph, text = _split_onnx(data)
        labels, kind = None, "onnx"
    info = ModelInfo.from_json(text)
    if labels is not None and labels != list(info.labels):
        raise ModelError("labels.txt and model.json disagree: altered file")
    digest = hashlib.sha256(graph)
    if digest.hexdigest() != info.graph_sha256:
        raise ModelError("the graph does not match its digest: truncated or altered file")
    digest.update(memoryview(data)[len(graph) :])  # the file begins with the graph
    return ModelFile(info, graph, kind, digest.hexdigest(), len(data))


def is_tflite(data: bytes) -> bool:
    """Whether the file identifier of a TFLite flatbuffer is there."""
    return data[4:8] == b"TFL3"


def pack_model(graph: bytes, info: ModelInfo, kind: str) -> bytes:
    """The bytes of a model file: `graph` with `info` (its digest filled in) behind it.

    Args:
        graph: flatbuffer or ONNX protobuf without metadata of ours.
        kind: `tflite` or `onnx`.
    """
    text = replace(info, graph_sha256=hashlib.sha256(graph).hexdigest()).to_json()
    if kind == "onnx":
        value = text.encode("utf-8")
        digest = hashlib.sha256(value).hexdigest().encode("ascii")
        return graph + _property(ONNX_DIGEST_KEY, digest) + _property(ONNX_KEY, value)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in (("labels.txt", "\n".join(info.labels) + "\n"), ("model.json", text)):
            member = zipfile.ZipInfo(name, _ZIP_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(member, content)
    # The last two bytes tell how long the comment is that follows.
    signed = graph + archive.getvalue()[:-2] + struct.pack("<H", DIGEST_LENGTH)
    return signed + hashlib.sha256(signed).hexdigest().encode("ascii")


def _check_comment(data: bytes) -> None:
    """The zip's comment must be the digest of all that stands before it."""
    end, digest = data[-22 - DIGEST_LENGTH : -DIGEST_LENGTH], data[-DIGEST_LENGTH:]
    if not end.endswith(struct.pack("<H", DIGEST_LENGTH)) or b"PK\5\6" not in end:
        raise UnsignedModelError(
            "no digest at its end: truncated, altered or not from btc-export (a file that you "
            "trust all the same runs with --allow-unsigned)"
        )
    signed = memoryview(data)[:-DIGEST_LENGTH]
    if hashlib.sha256(signed).hexdigest().encode("ascii") != digest:
        raise ModelError("the file does not match its digest: altered")


# What zipfile raises on damaged archives; ValueError: seeks before the file's start, odd names.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError),
    *(EOFError, OSError, ValueError, OverflowError),
)


def split_tflite(data: bytes) -> tuple[bytes, bytes, list[str]]:
    """The graph, the text of `model.json` and the lines of `labels.txt`, unchecked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(members) != len(archive.infolist()) or len(members) > 16:
                raise ModelError("unexpected entries in the model's metadata")
            texts = []
            for name in ("model.json", "labels.txt"):
                if members[name].file_size > MAX_INFO_BYTES:
                    raise ModelError("metadata larger than any model's")
                with archive.open(members[name]) as stream:
                    texts.append(stream.read(MAX_INFO_BYTES))
            start = min(member.header_offset for member in members.values())
    except KeyError as error:
        raise UnsignedModelError(f"no {error.args[0]} in the file: not from btc-export") from None
    except _ZIP_ERRORS:
        raise UnsignedModelError(
            "no readable metadata: truncated, altered or not from btc-export"
        ) from None
    try:
        labels = texts[1].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ModelError("labels.txt is not text: altered file") from None
    return data[:start], texts[0], labels


MAX_FIELDS = 100_000
_METADATA_PROPS = 14  # field number in ModelProto (onnx.proto); 1 and 2 are key and value


def _split_onnx(data: bytes) -> tuple[bytes, bytes]:
    """The graph and the metadata of ours, whose two entries must be the file's last fields."""
    at, starts, fields = 0, [0, 0], 0
    try:
        while at < len(data):
            fields += 1
            if fields > MAX_FIELDS:  # a model has a handful; millions would take minutes
                raise ValueError(fields)
            starts = [starts[1], at]
            _, _, at = _read_field(data, at)
        digest = _read_property(data[starts[0] : starts[1]], ONNX_DIGEST_KEY)
        text = _read_property(data[starts[1] :], ONNX_KEY)
    except (IndexError, ValueError):
        raise UnsignedModelError(
            "not a .tflite or .onnx file from btc-export, or truncated"
        ) from None
    if len(text) > MAX_INFO_BYTES:
        raise ModelError("metadata larger than any model's")
    if hashlib.sha256(text).hexdigest().encode("ascii") != digest:
        raise ModelError("the metadata does not match its digest: altered file")
    return data[: starts[0]], text


def _read_property(data: bytes, key: bytes) -> bytes:
    """The value of one whole `metadata_props` field, if its key is `key`."""
    number, content, end = _read_field(data, 0)
    entry = data[content:end]
    one, name, middle = _read_field(entry, 0)
    two, value, last = _read_field(entry, middle)
    if (number, one, two, entry[name:middle], last) != (_METADATA_PROPS, 1, 2, key, len(entry)):
        raise ValueError(key)
    return entry[value:last]


def _read_field(data: bytes, at: int) -> tuple[int, int, int]:
    """One protobuf field: its number, where its content begins, and where that ends."""
    key, at = _read_varint(data, at)
    number, kind = key >> 3, key & 7
    if kind == 0:
        _, end = _read_varint(data, at)
    elif kind == 2:
        length, at = _read_varint(data, at)
        end = at + length
    elif kind in (1, 5):
        end = at + (8 if kind == 1 else 4)
    else:
        raise ValueError(kind)
    if number == 0 or end > len(data):
        raise ValueError(number)
    return number, at, end


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("varint")


def _property(key: bytes, value: bytes) -> bytes:
    return _field(_METADATA_PROPS, _field(1, key) + _field(2, value))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
