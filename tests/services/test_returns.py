"""What becomes of a received study once it is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.classifier import Classifier
from edge_runtime.services import results
from edge_runtime.services.delivery import Outbox
from edge_runtime.services.journal import Record
from edge_runtime.services.returns import Returns
from edge_runtime.services.spool import Spool, digest
from edge_runtime.services.watcher import Answered
from edge_runtime.studies.drop import DropFile
from tests.services.dicom_peers import STUDY, drawn_file


class Delivered:
    """A sender that takes all."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def send(self, paths: Any, arrived: Any) -> None:
        for path in paths:
            self.names.append(path.name)
            arrived(path, None)


class Place:
    """A spool with one study of two files, and what is done with its answer."""

    def __init__(self, home: Path, classifier: Classifier, wanted: bool = True) -> None:
        self.spool = Spool(home / "spool", max_bytes=1 << 20, max_files=9, min_free=0)
        self.folder = self.spool.folder / digest(STUDY)
        self.folder.mkdir()
        self.files = [self.folder / f"{number}.dcm" for number in range(2)]
        for number, path in enumerate(self.files):
            path.write_bytes(drawn_file(number))
        self.lines: list[str] = []
        self.sender = Delivered()
        self.outbox = Outbox(
            self.spool, self.sender if wanted else None, keep=False, tell=self.lines.append
        )
        self.returns = Returns(classifier if wanted else None, self.outbox, self.lines.append)
        self.classifier = classifier

    def answered(self, *files: Path) -> Answered:
        paths = files or tuple(self.files)
        answer = self.classifier.classify_study(STUDY, paths)
        record = Record(STUDY, 1, "content", answer.model, "name", 1)
        return Answered(answer, tuple(DropFile(path.name, path) for path in paths), record)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


def test_an_answer_becomes_two_results_and_its_files_go(
    tmp_path: Path, classifier: Classifier
) -> None:
    place = Place(tmp_path, classifier)
    place.returns.on_answer(place.answered())
    assert place.folder.exists()
    assert place.outbox.deliver()
    assert len(place.sender.names) == 2
    assert not place.folder.exists()
    assert place.lines == []


def test_the_same_answer_told_twice_is_delivered_once(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, classifier)
    answered = place.answered()
    place.returns.on_answer(answered)
    monkeypatch.setattr(results, "make_results", None)  # not made again
    place.returns.on_answer(answered)
    assert place.outbox.deliver()
    assert len(place.sender.names) == 2
    assert place.lines == []
    assert not place.folder.exists()


def test_without_results_files_go(tmp_path: Path, classifier: Classifier) -> None:
    place = Place(tmp_path, classifier, wanted=False)
    place.returns.on_answer(place.answered())
    assert place.outbox.deliver()
    assert not place.folder.exists()


@pytest.mark.parametrize("error", [ValueError("Sample^Person"), KeyError("x"), TypeError()])
def test_what_no_results_can_be_made_of_is_told_and_stays(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One odd header must not end the service, nor be quoted."""
    place = Place(tmp_path, classifier)

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(results, "make_results", fail)
    place.returns.on_answer(place.answered())
    assert place.outbox.deliver()
    assert all(path.exists() for path in place.files)
    [line] = place.lines
    assert line == (
        f"{STUDY}: no results can be made of it: {type(error).__name__}; its files stay"
    )


def test_a_full_disk_is_the_desks_affair(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, classifier)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place.outbox, "put", full)
    with pytest.raises(OSError, match="No space"):
        place.returns.on_answer(place.answered())
    assert all(path.exists() for path in place.files)


def test_files_of_another_patient_stay(tmp_path: Path, classifier: Classifier) -> None:
    place = Place(tmp_path, classifier)
    place.files[1].write_bytes(drawn_file(1, PatientID="ANOTHER"))
    first = place.answered(place.files[0])
    place.returns.on_answer(first._replace(files=place.answered().files))
    assert place.outbox.deliver()
    assert len(place.sender.names) == 2
    assert place.files[1].exists()


@pytest.mark.parametrize("is_away", [False, True])
def test_files_of_two_patients_go_each_with_results_of_their_own(
    tmp_path: Path, classifier: Classifier, is_away: bool
) -> None:
    """Else they would lie in the spool for ever."""
    place = Place(tmp_path, classifier)
    place.files[1].write_bytes(drawn_file(1, PatientID="ANOTHER"))
    files = tuple(DropFile(path.name, path) for path in place.files)
    for path in place.files:
        place.returns.on_answer(place.answered(path)._replace(files=files))
        assert is_away or place.outbox.deliver()
    assert place.outbox.deliver()
    assert len(place.sender.names) == 4
    assert not place.folder.exists()
    assert list((place.spool.folder / ".results").iterdir()) == []


def test_a_study_that_comes_once_more_goes_without_results(
    tmp_path: Path, classifier: Classifier
) -> None:
    place = Place(tmp_path, classifier)
    place.returns.on_known(place.answered().files)
    assert place.outbox.deliver()
    assert place.sender.names == []
    assert not place.folder.exists()


def test_a_study_that_is_known_stays_while_its_results_wait(
    tmp_path: Path, classifier: Classifier
) -> None:
    place = Place(tmp_path, classifier)
    answered = place.answered()
    place.returns.on_answer(answered)
    place.returns.on_known(answered.files)
    assert len(list((place.spool.folder / ".results").iterdir())) == 1
