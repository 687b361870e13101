"""Adds what MediaPipe Tasks wants to know to a .tflite file, in MediaPipe's own environment:

    python mediapipe_metadata.py FROM TO LABEL ...

Its own writers of metadata (mediapipe.tasks.python.metadata) need a module that its package for
Linux lacks (1.2.3), so this fills the same schema: an RGB picture whose values stay 0-255, and the
labels of the output, which lie in a zip behind the file.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata
from mediapipe.tasks.metadata import schema_py_generated as schema

LABELS = "labels.txt"


def packed(table: Any, identifier: bytes) -> bytes:
    builder = flatbuffers.Builder(0)
    builder.Finish(table.Pack(builder), identifier)
    return bytes(builder.Output())


def image_metadata() -> Any:
    """An RGB picture, each value x as (x - 0) / 1."""
    image = metadata.TensorMetadataT()
    image.content = metadata.ContentT()
    image.content.contentPropertiesType = metadata.ContentProperties.ImageProperties
    image.content.contentProperties = metadata.ImagePropertiesT()
    image.content.contentProperties.colorSpace = metadata.ColorSpaceType.RGB
    unit = metadata.ProcessUnitT()
    unit.optionsType = metadata.ProcessUnitOptions.NormalizationOptions
    unit.options = metadata.NormalizationOptionsT()
    unit.options.mean, unit.options.std = [0.0], [1.0]
    image.processUnits = [unit]
    return image


def probability_metadata() -> Any:
    file = metadata.AssociatedFileT()
    file.name, file.type = LABELS, metadata.AssociatedFileType.TENSOR_AXIS_LABELS
    output = metadata.TensorMetadataT()
    output.associatedFiles = [file]
    return output


def main() -> None:
    source, target, *labels = sys.argv[1:]
    graph = metadata.SubGraphMetadataT()
    graph.inputTensorMetadata = [image_metadata()]
    graph.outputTensorMetadata = [probability_metadata()]
    whole = metadata.ModelMetadataT()
    whole.subgraphMetadata, whole.minParserVersion = [graph], "1.0.0"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(Path(source).read_bytes()))
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    buffer.data = list(packed(whole, b"M001"))
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    Path(target).write_bytes(packed(model, b"TFL3"))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(LABELS, "\n".join(labels))


if __name__ == "__main__":
    main()
