"""The one writer of a TFLite flatbuffer, in few bytes.

Per-channel quantisation gives every channel a scale and an eight-byte zero point, twice: for the
weights and for the bias. The zero points are all 0, yet the converter writes each list anew; in a
network of many narrow layers they are a fifth of the file. FlatBuffers lets tables share a vector,
so here equal vectors are written once.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import flatbuffers.number_types as types
import numpy as np

from export.tflite.flatbuffer import read_tflite

IDENTIFIER = b"TFL3"
DATA_ALIGNMENT = 16  # of a buffer's bytes, as TFLite's schema demands


class _Sharing(flatbuffers.Builder):
    """A builder that writes equal vectors once, and bytes where tensors may be read in place."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> int:
        values = np.ascontiguousarray(x)
        key = (values.dtype.str, values.tobytes())
        if key not in self._written:
            self._written[key] = self._write(values)
        return self._written[key]

    def _write(self, values: Any) -> int:
        size = values.dtype.itemsize
        alignment = DATA_ALIGNMENT if values.dtype == np.uint8 else size
        self.StartVector(size, values.size, alignment)
        raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
        self.head = types.UOffsetTFlags.py_type(self.Head() - len(raw))
        self.Bytes[self.Head() : self.Head() + len(raw)] = raw
        self.vectorNumElems = values.size
        offset: int = self.EndVector()
        return offset


def write_graph(schema: Any) -> bytes:
    """The flatbuffer of the schema's object (`TfliteGraph.schema`), equal vectors shared."""
    builder = _Sharing()
    builder.Finish(schema.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def repack(flatbuffer: bytes) -> bytes:
    """Write a TFLite flatbuffer again with equal vectors shared; nothing else changes."""
    return write_graph(read_tflite(flatbuffer).schema)
