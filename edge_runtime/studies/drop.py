"""What somebody hands over at once: pictures, volumes, the DICOM files of one study or several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.decision.prediction import Prediction
from edge_runtime.errors import InputError
from edge_runtime.imaging.kinds import HEAD, Kind, gzipped_kind, kind_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits, first_bytes
from edge_runtime.imaging.readers import read_any

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier


class DropFile(NamedTuple):
    """A file of a drop.

    Attributes:
        name: what answers call it.
        source: its path, or its bytes.
    """

    name: str
    source: str | os.PathLike[str] | bytes

    def kind(self) -> Kind | None:
        """What it is by its first bytes; None for what is not read, and what cannot be."""
        try:
            head = self.source if isinstance(self.source, bytes) else first_bytes(self.source)
        except InputError:
            return None
        return kind_of(head[:HEAD]) or gzipped_kind(head)


def study_uid(file: DropFile, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """The StudyInstanceUID of a DICOM file; empty where it has none.

    Raises:
        InputError: damaged, over the limits, or the package pydicom is missing.
    """
    from edge_runtime.imaging.dicom_head import DAMAGED, read_elements

    data = read_any(file.source, limits)
    try:
        head, _ = read_elements(data, limits, ["StudyInstanceUID"])
        return str(head.get("StudyInstanceUID") or "")
    except InputError:
        raise
    except Exception:  # pydicom raises many kinds on a damaged file
        raise InputError(DAMAGED) from None


def classify_drop(
    classifier: Classifier,
    files: Iterable[DropFile],
    *,
    workers: int = 1,
    heatmaps: Path | None = None,
) -> Iterator[Prediction]:
    """One answer for each study (the DICOM files of one StudyInstanceUID, or a volume) and one for
    each picture, as they are known.

    Args:
        workers, heatmaps: see `Classifier.classify_many`.
    """
    how: dict[str, Any] = {"workers": workers, "heatmaps": heatmaps}
    studies: dict[str, list[DropFile]] = {}
    for file in files:
        kind = file.kind()
        if kind is not None and kind.name == "dicom":
            studies.setdefault(study_uid(file), []).append(file)
        elif kind is not None and not kind.is_picture:
            yield classifier.classify_study(file.name, [file.source], **how)
        else:
            yield from classifier.classify_many([file.source], **how)
    for uid, members in studies.items():
        sources = [member.source for member in members]
        yield classifier.classify_study(uid or members[0].name, sources, **how)
