"""An answer as DICOM, for the study that it is about: a Secondary Capture of the slice behind it,
and a Measurement Report (TID 1500) that says the same in codes.

The study's own patient and study elements are copied, so that an archive files the results under
it. Nothing of them goes anywhere else. What is made twice of the same files by the same model is
the same instance: its UIDs and times are derived from them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import NAMESPACE_OID, uuid5

import cv2
import highdicom
import numpy as np
import pydicom
from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.errors import InputError, ModelError
from edge_runtime.imaging.dicom_head import identifier, read_elements
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits, read_file
from edge_runtime.imaging.readers import slices_of
from edge_runtime.labels import NO_TUMOR, normalise_label
from edge_runtime.version import __version__

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.classifier import Classifier

    Picture = npt.NDArray[np.uint8]

WARNING = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
MAKER, PRODUCT = "btc-edge", "btc-edge"
SERIES_NUMBERS = {"SC": 9101, "SR": 9102}
SIDE = 512  # pixels of a slice's longer side in the picture, about
MOST_EVIDENCE = 200  # images that a report refers to
LONGEST = 1024  # characters of an element that is copied

# Modules Patient and General Study (PS3.3, C.7.1.1, C.7.2.1): what an archive files by.
TEXTS = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName"),
)
DATES, TIMES = ("PatientBirthDate", "StudyDate"), ("StudyTime",)
OF_PATIENT = (*TEXTS, *DATES, *TIMES)
OF_IMAGE = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
    *("SpecificCharacterSet", "ImageOrientationPatient", "BurnedInAnnotation", "NumberOfFrames"),
)
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_DATE, _TIME = re.compile(r"[0-9]{8}"), re.compile(r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?")

TUMOR_EVIDENCE = Code("TUMOR-EVIDENCE", "99BTCEDGE", "Evidence that the study shows a tumor")
TYPE_PROBABILITY = Code("TYPE-PROBABILITY", "99BTCEDGE", "Probability of the type, given a tumor")
TUMOR_TYPE = Code("TUMOR-TYPE", "99BTCEDGE", "Type of the tumor, as the model tells it")

# What pydicom says of odd values that it writes quotes them.
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE


class Result(NamedTuple):
    """A file for an archive.

    Attributes:
        kind: SC or SR.
        instance: its SOPInstanceUID.
        data: the file.
    """

    kind: str
    instance: str
    data: bytes


@dataclass(frozen=True)
class Source:
    """A received image.

    Attributes:
        head: the elements that are read of it.
        sha256: digest of its bytes.
        patient: what tells patients apart, as answers do: PatientID, and who issued it.
    """

    path: Path
    head: pydicom.Dataset
    sha256: str
    patient: tuple[str, str]


def read_sources(paths: Iterable[Path], limits: ImageLimits = DEFAULT_LIMITS) -> list[Source]:
    """The images of a study, in the order of their UIDs; what cannot be read is left out, as it is
    from the answer."""
    sources = []
    for path in paths:
        try:
            data = read_file(path, limits)
            head, _ = read_elements(data, limits, [*OF_PATIENT, *OF_IMAGE])
            patient = identifier(head, "PatientID"), identifier(head, "IssuerOfPatientID")
            head = _decoded(head)
        except Exception:  # pydicom raises many kinds on a damaged file
            continue
        if all(head.get(name) for name in OF_IMAGE[:4]):
            sources.append(Source(path, head, sha256(data).hexdigest(), patient))
    return sorted(sources, key=lambda source: str(source.head.SOPInstanceUID))


def is_one_patient(sources: Iterable[Source]) -> bool:
    """Whether images are of one patient, as answers put them together: one that is silent on the
    identifier, or on who issued it, goes with the others."""
    told = zip(*(source.patient for source in sources), strict=True)
    return all(len({*words} - {""}) <= 1 for words in told)


def of_answer(answer: Prediction, sources: Sequence[Source]) -> list[Source]:
    """The images of the patient whom an answer is for: a StudyInstanceUID may stand, wrongly, in
    files of several.

    Raises:
        InputError: it is not known whom it is for.
    """
    if is_one_patient(sources):
        return list(sources)
    digests = {each.sha256 for each in answer.slices or ()}
    shown = [source for source in sources if source.sha256 in digests] or sources
    if not is_one_patient(shown):
        raise InputError("files of several patients under one StudyInstanceUID")
    patients = {source.patient for source in shown}
    return [source for source in sources if source.patient in patients]


def make_results(
    classifier: Classifier,
    answer: Prediction,
    sources: Sequence[Source],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> list[Result]:
    """The Secondary Capture and the report of an answer, which may be that there is none.

    Args:
        sources: all images of the study, at least one.

    Raises:
        InputError: the files are of several studies or patients, or none of them can be used.
    """
    if not sources:
        raise InputError("no image that results could refer to")
    studies = {str(source.head.StudyInstanceUID) for source in sources}
    if len(studies) != 1:
        raise InputError("images of several studies")
    if not is_one_patient(sources):
        raise InputError("images of several patients")
    newest = max(source.path.stat().st_mtime for source in sources)
    made = _Made(sources, answer, datetime.fromtimestamp(int(newest)))
    shown = strongest(answer)
    capture = _capture(made, _picture(classifier, made, shown, limits))
    report = _report(made, capture, shown)
    return [Result(kind, *_written(each)) for kind, each in (("SC", capture), ("SR", report))]


class _Made:
    """What both results are made of."""

    def __init__(self, sources: Sequence[Source], answer: Prediction, time: datetime) -> None:
        self.sources, self.answer, self.time = sources, answer, time
        # Of the first one that tells most of whom it shows.
        self.head = max(sources, key=lambda source: sum(map(bool, source.patient))).head
        digests = sorted(source.sha256 for source in sources)
        labels = [answer.status.value, answer.raw_label or "", answer.model, __version__]
        self._key = "\n".join([str(self.head.StudyInstanceUID), *digests, *labels])
        self._by_digest = {source.sha256: source for source in sources}

    def uid(self, of: str) -> str:
        """A UID made of a UUID (PS3.5, B.2), always the same for the same answer."""
        return "2.25." + str(uuid5(NAMESPACE_OID, self._key + "\n" + of).int)

    def source_of(self, number: int | None) -> Source | None:
        """The image that a slice of the answer is from."""
        slices = self.answer.slices or ()
        if number is None or not 0 <= number < len(slices):
            return None
        return self._by_digest.get(slices[number].sha256 or "")

    def general(self, kind: str) -> dict[str, Any]:
        """What highdicom wants of every instance."""
        date, time = self.time.date(), self.time.time()
        return {
            "series_instance_uid": self.uid(f"{kind} series"),
            "series_number": SERIES_NUMBERS[kind],
            "sop_instance_uid": self.uid(f"{kind} instance"),
            "instance_number": 1,
            "manufacturer": MAKER,
            "manufacturer_model_name": PRODUCT,
            "software_versions": __version__,
            "device_serial_number": "none",
            "series_description": f"btc-edge {kind}: {WARNING}"[:64],
            "content_date": date,
            "content_time": time,
            "series_date": date,
            "series_time": time,
            "specific_character_set": "ISO_IR 192",
            "transfer_syntax_uid": ExplicitVRLittleEndian,
        }

    def finish(self, made: pydicom.Dataset) -> pydicom.Dataset:
        """Copy patient and study from the images, and set times that do not depend on now."""
        for name in OF_PATIENT:
            if self.head.get(name) or name in REQUIRED:
                setattr(made, name, self.head.get(name, ""))
            elif name in made:
                del made[name]
        made.InstanceCreationDate = made.ContentDate = f"{self.time:%Y%m%d}"
        made.InstanceCreationTime = made.ContentTime = f"{self.time:%H%M%S}"
        for equipment in made.get("ContributingEquipmentSequence") or ():
            equipment.ContributionDateTime = f"{self.time:%Y%m%d%H%M%S}"
        return made


def strongest(answer: Prediction) -> int | None:
    """The slice that speaks most for a tumour: of the findings where there are any, else of all
    slices that could be classified; None where none could. A slice of a plane in which no image was
    acquired can be shown by none, so it counts only where no other does."""
    slices = answer.slices or ()
    found = [int(each["slice"]) for each in (answer.study or {}).get("findings") or ()]
    usable = [n for n in found if 0 <= n < len(slices) and slices[n].probabilities]
    others = [n for n, each in enumerate(slices) if each.probabilities]
    for numbers in (usable, others):
        acquired = [n for n in numbers if slices[n].sha256]
        if acquired:
            return max(acquired, key=lambda number: tumor(slices[number]))
    return max(usable or others, key=lambda number: tumor(slices[number]), default=None)


def tumor(answer: Prediction) -> float:
    """The probability that a slice shows a tumour, of any type."""
    probabilities = answer.probabilities or {}
    return sum(p for label, p in probabilities.items() if normalise_label(label) != NO_TUMOR)


def is_tumor(answer: Prediction) -> bool:
    """Whether it is answered that there is a tumour."""
    return answer.status is Status.OK and normalise_label(str(answer.label)) != NO_TUMOR


def in_words(answer: Prediction) -> list[str]:
    """An answer for people to read."""
    study: Mapping[str, Any] = answer.study or {}
    if answer.status is Status.ERROR:
        lines = [f"NOT ANSWERED: {answer.error}"]
    elif answer.status is not Status.OK:
        lines = [f"NO ANSWER ({answer.status.value}): {answer.reason or 'not sure enough'}"]
    elif normalise_label(str(answer.label)) == NO_TUMOR:
        lines = [f"Answer of the model: no tumor ({answer.confidence:.2f})"]
    else:
        lines = [f"Answer of the model: tumor, {answer.label} ({answer.confidence:.2f})"]
    if study.get("tumor") is not None:
        lines.append(f"Evidence of a tumor: {study['tumor']:.2f} of 1")
    if is_tumor(answer) and study.get("type"):
        lines.append(f"Type {answer.label}, given a tumor: {study['type']['confidence']:.2f} of 1")
    left_out = sum(not each["used"] for each in study.get("series") or ())
    passed = len(study.get("passed_over") or ())
    if left_out or passed:
        lines.append(f"Not looked at: {left_out} series, {passed} files")
    return [*lines, f"Model: {answer.model}"]


def _picture(
    classifier: Classifier, made: _Made, shown: int | None, limits: ImageLimits
) -> Picture:
    """The slice with the box of its finding, beside it the heatmap, below them the answer in words
    (RGB)."""
    lines = in_words(made.answer)
    panels = []
    source = made.source_of(shown)
    if source is not None and shown is not None:
        one = (made.answer.slices or ())[shown]
        gray = _gray(source, one.slice, limits)
        plain = _enlarged(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB))
        _draw_box(plain, made.answer, shown)
        panels = [plain, _enlarged(_heatmap(classifier, gray))]
        series = str(source.head.SeriesInstanceUID)
        frame = "" if one.slice is None else f", frame {one.slice + 1}"
        lines += [f"Series {series}", f"Instance {source.head.SOPInstanceUID}{frame}"]
    shape = panels[0].shape if panels else (0, SIDE, 3)
    width = max(2 * shape[1], SIDE)
    body = np.zeros((shape[0], width, 3), np.uint8)
    for number, panel in enumerate(panels):
        body[:, number * shape[1] : (number + 1) * shape[1]] = panel
    banner = _words([WARNING], width, (255, 255, 0))
    return np.concatenate([banner, body, _words(lines, width, (255, 255, 255)), banner])


def _gray(source: Source, number: int | None, limits: ImageLimits) -> Picture:
    parts = slices_of(read_file(source.path, limits), limits, "axial", None)
    return next(part.gray for at, part in enumerate(parts) if at == (number or 0))


def _heatmap(classifier: Classifier, gray: Picture) -> Picture:
    """The slice under the class map of its best guess; the slice itself where the model has no
    class maps."""
    with TemporaryDirectory() as folder:
        try:
            [answer] = classifier.classify_slices(gray, heatmaps=Path(folder))
            picture = cv2.imread(str(answer.heatmap), cv2.IMREAD_COLOR)
        except (InputError, ModelError):
            return np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), np.uint8)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _enlarged(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def _draw_box(picture: Picture, answer: Prediction, shown: int) -> None:
    height, width = picture.shape[:2]
    for finding in (answer.study or {}).get("findings") or ():
        if finding["slice"] == shown and finding.get("box"):
            left, top, wide, tall = finding["box"]
            start = round(left * width), round(top * height)
            end = round((left + wide) * width), round((top + tall) * height)
            cv2.rectangle(picture, start, end, (255, 255, 0), 2)


def _words(lines: Iterable[str], width: int, colour: tuple[int, int, int]) -> Picture:
    """Lines of text in a band; what OpenCV's font has no letter for is a question mark."""
    font, scale, step = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 22
    letters = max(10, (width - 16) // 10)
    rows = [row for line in lines for row in textwrap.wrap(line, letters)]
    band = np.zeros((step * len(rows) + 12, width, 3), np.uint8)
    for number, row in enumerate(rows):
        text = row.encode("ascii", "replace").decode()
        at = (8, step * (number + 1) - 2)
        cv2.putText(band, text, at, font, scale, colour, 1, cv2.LINE_AA)
    return band


def _capture(made: _Made, picture: Picture) -> pydicom.Dataset:
    """The Secondary Capture (PS3.3, A.8.1).

    BurnedInAnnotation tells of what identifies the patient (C.7.6.1.1.1), which what is written
    into the picture does not; what the images themselves say of theirs holds on.
    """
    capture = highdicom.sc.SCImage(
        picture, "RGB", 8, "PATIENT", study_instance_uid=str(made.head.StudyInstanceUID),
        patient_orientation=("L", "P"), **made.general("SC"),
    )  # fmt: skip
    capture.Laterality = None
    capture.PatientOrientation = None  # two panels and words have none
    capture.ConversionType = "WSD"
    capture.DateOfSecondaryCapture = f"{made.time:%Y%m%d}"
    capture.TimeOfSecondaryCapture = f"{made.time:%H%M%S}"
    burned = {str(source.head.get("BurnedInAnnotation") or "") for source in made.sources}
    capture.BurnedInAnnotation = "YES" if "YES" in burned else "NO"
    capture.DerivationDescription = f"Heatmap of a slice by a network. {WARNING}"
    capture.ImageComments = WARNING
    return made.finish(capture)


def _report(made: _Made, capture: pydicom.Dataset, shown: int | None) -> pydicom.Dataset:
    """The Comprehensive SR (PS3.3, A.35.3) of TID 1500 (PS3.16)."""
    answer = made.answer
    device = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            made.uid("device"), name=PRODUCT, manufacturer_name=MAKER, model_name=answer.model
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.LN.BrainMRI,
        imaging_measurements=[_group(made, shown)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    root = content[0].ContentSequence
    for line in (WARNING, *in_words(answer)):
        root.append(
            sr.TextContentItem(
                codes.DCM.Comment, line[:LONGEST], sr.RelationshipTypeValues.CONTAINS
            )
        )
    root.append(
        sr.ImageContentItem(
            codes.DCM.BestIllustrationOfFinding,
            capture.SOPClassUID,
            capture.SOPInstanceUID,
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
    )
    report = sr.ComprehensiveSR(
        evidence=[*(_stand_in(source.head) for source in made.sources), capture],
        content=content,
        is_complete=answer.status is Status.OK,
        is_verified=False,
        is_final=False,
        **made.general("SR"),
    )
    report.CompletionFlagDescription = WARNING
    return made.finish(report)


def _group(made: _Made, shown: int | None) -> sr.MeasurementsAndQualitativeEvaluations:
    """The answer, and the images behind it (TID 1501)."""
    answer = made.answer
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(made.uid("tracking"), "answer for the study"),
        finding_type=codes.SCT.Tumor,
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        algorithm_id=sr.AlgorithmIdentification(
            name=answer.model, version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
        qualitative_evaluations=_evaluations(answer),
        measurements=_measurements(answer) or None,
        source_images=[
            sr.SourceImageForMeasurementGroup(
                source.head.SOPClassUID, source.head.SOPInstanceUID, frames or None
            )
            for source, frames in _evidence(made, shown)
        ],
    )


def _evaluations(answer: Prediction) -> list[Any]:
    """Whether there is a tumour, and its type; nothing is told that the answer does not."""
    if answer.status is not Status.OK:
        return [sr.QualitativeEvaluation(codes.SCT.Tumor, codes.SCT.IndeterminateResult)]
    if normalise_label(str(answer.label)) == NO_TUMOR:
        return [sr.QualitativeEvaluation(codes.SCT.Tumor, codes.SCT.Absent)]
    name = str(answer.label)
    told = Code(re.sub(r"\W", "-", name.upper())[:16], "99BTCEDGE", name[:64])
    return [
        sr.QualitativeEvaluation(codes.SCT.Tumor, codes.SCT.Present),
        sr.QualitativeEvaluation(TUMOR_TYPE, told),
    ]


def _measurements(answer: Prediction) -> list[Any]:
    """Evidence and probabilities, of 1, rounded to what they are worth."""
    values: list[tuple[Code, float | None]] = [
        (TUMOR_EVIDENCE, (answer.study or {}).get("tumor")),
    ]
    if answer.status is Status.OK:
        values.append((codes.DCM.Probability, answer.confidence))
    if is_tumor(answer) and (answer.study or {}).get("type"):
        values.append((TYPE_PROBABILITY, (answer.study or {})["type"]["confidence"]))
    return [
        sr.Measurement(name, round(float(value), 4), codes.UCUM.NoUnits)
        for name, value in values
        if value is not None and np.isfinite(value)
    ]


def _evidence(made: _Made, shown: int | None) -> list[tuple[Source, list[int]]]:
    """The images of the findings, each with its frames (from 1; none of a single one); the slice
    that is shown where there is no finding, and all images where none is shown."""
    slices = made.answer.slices or ()
    numbers = [
        number
        for finding in (made.answer.study or {}).get("findings") or ()
        for number in range(finding["first"], finding["last"] + 1)
    ] or ([] if shown is None else [shown])
    found: dict[str, tuple[Source, list[int]]] = {}
    for number in numbers:
        source = made.source_of(number)
        if source is None:
            continue
        _, frames = found.setdefault(source.sha256, (source, []))
        frame = slices[number].slice
        if frame is not None and frame + 1 not in frames:
            frames.append(frame + 1)
    evidence = list(found.values()) or [(source, []) for source in made.sources]
    return evidence[:MOST_EVIDENCE]


def _stand_in(head: pydicom.Dataset) -> pydicom.Dataset:
    """An image as highdicom wants it for evidence, without anything of the patient; `finish` sets
    that."""
    image = pydicom.Dataset()
    for name in OF_IMAGE[:4]:
        setattr(image, name, str(head.get(name)))
    for name in REQUIRED:
        setattr(image, name, None)
    return image


def _decoded(head: pydicom.Dataset) -> pydicom.Dataset:
    """The elements as text of any alphabet; what is no date or time, or far too long, is blank."""
    told = pydicom.Dataset()
    for name in (*OF_PATIENT, *OF_IMAGE):
        value = head.get(name)
        if value is None:
            continue
        if name in OF_PATIENT:
            # A backslash parts values, also where there should be one.
            several = isinstance(value, pydicom.multival.MultiValue)
            text = "\\".join(map(str, value)) if several else str(value)
            fits = {**dict.fromkeys(DATES, _DATE), **dict.fromkeys(TIMES, _TIME)}.get(name)
            value = text if len(text) <= LONGEST and (fits is None or fits.fullmatch(text)) else ""
        if name != "SpecificCharacterSet":
            setattr(told, name, value)
    return told


def _written(made: pydicom.Dataset) -> tuple[str, bytes]:
    """The instance and its bytes as a file."""
    out = BytesIO()
    made.save_as(out, enforce_file_format=True)
    return str(made.SOPInstanceUID), out.getvalue()
