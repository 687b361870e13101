"""The state between two epochs outlives a stop at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from edge_runtime.errors import DataError
from trainer.models import training
from trainer.models.checkpoint import Checkpoint, State
from trainer.models.sampler import Samples
from trainer.models.training import Diverged, TrainSettings, train


class Killed(BaseException):
    """In place of a SIGKILL: nothing may catch it and go on."""


class Stub:
    """A model that is one number in a file."""

    def __init__(self, value: int) -> None:
        self.value = value

    def save(self, path: Path) -> None:
        Path(path).write_text(str(self.value))


@pytest.fixture(autouse=True)
def stub_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.saving, "load_model", lambda path: int(Path(path).read_text()))


def state(epoch: int, best: int) -> State:
    return State(epoch, best, 1.0 / best, [{"epoch": float(n + 1)} for n in range(epoch)])


def save(checkpoint: Checkpoint, epoch: int, best: int) -> None:
    checkpoint.save(Stub(epoch), Stub(100 + epoch), state(epoch, best))


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], bool]:
    """Stop the process before the `number`-th call that changes the file system, for good.

    Returns:
        Whether it came so far.
    """
    count = 0

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > number:
                raise Killed
            return real(*args, **kwargs)

        return call

    for module, name in (
        (os, "replace"), (os, "unlink"), (os, "mkdir"), (os, "rename"), (os, "rmdir"),
        (os, "fsync"), (os, "open"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_text"),
        (Path, "write_bytes"), (Path, "rename"), (shutil, "rmtree"), (shutil, "copyfile"),
        (Stub, "save"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    return lambda: count > number


def former(folder: Path, epoch: int, best: int) -> None:
    """A checkpoint as the former version wrote it."""
    folder.mkdir(parents=True)
    (folder / "last.keras").write_text(str(epoch))
    (folder / "best.keras").write_text(str(100 + best))
    (folder / "state.json").write_text(json.dumps(asdict(state(epoch, best))))


@pytest.mark.parametrize("better", [True, False])
@pytest.mark.parametrize("layout", ["own", "former", "former, between its renames"])
def test_a_stop_at_any_call_leaves_a_usable_checkpoint(
    tmp_path: Path, layout: str, better: bool
) -> None:
    for number in range(200):
        folder = tmp_path / str(number) / "checkpoint"
        checkpoint = Checkpoint(folder)
        if layout == "own":
            for epoch in (1, 2):
                save(checkpoint, epoch, 1)
        else:
            former(folder.with_name("checkpoint.old") if "," in layout else folder, 2, 1)
        with pytest.MonkeyPatch.context() as patch:
            reached = stop_at(patch, number)
            with contextlib.suppress(Killed):
                save(checkpoint, 3, 3 if better else 1)
        loaded = Checkpoint(folder).load()
        assert loaded is not None
        model, found = loaded
        assert found == state(found.epoch, found.best_epoch)
        assert (model, found.epoch) in ((2, 2), (3, 3))
        assert Checkpoint(folder).best() == 100 + found.best_epoch
        save(Checkpoint(folder), found.epoch + 1, found.best_epoch)  # and it goes on
        assert Checkpoint(folder).load() == (
            found.epoch + 1, state(found.epoch + 1, found.best_epoch)
        )  # fmt: skip
        assert Checkpoint(folder).best() == 100 + found.best_epoch
        names = {path.name for path in folder.parent.rglob("*")}
        assert len(names) == 4, "the pointer, two models, and their folder"
        if not reached():
            assert (model, number > 5) == (3, True)
            return
    pytest.fail("saving never came to an end")


def test_what_is_saved_is_synced_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync, move = os.fsync, os.replace

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(name_of(fd)), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(f"> {Path(b).name}"), move(a, b)))
    if not Path("/proc/self/fd").exists():
        pytest.skip("no way to name a descriptor")
    save(Checkpoint(tmp_path / "checkpoint"), 1, 1)
    moved = [word for word in seen if word.startswith(">")]
    assert moved == ["> last-00001.keras", "> best-00001.keras", "> checkpoint.json"]
    for word in moved:  # the file before, the folder after
        at = seen.index(word)
        assert seen[at - 1].endswith(word[word.index(".") :])
        assert seen[at + 1] == "checkpoint"


def test_removed_and_damaged_checkpoints(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert checkpoint.load() is None
    with pytest.raises(DataError, match="no epoch"):
        checkpoint.best()
    save(checkpoint, 1, 1)
    (tmp_path / "checkpoint" / "last-00001.keras").write_text("damaged")
    with pytest.raises(DataError, match=r"last-00001.keras is damaged"):
        checkpoint.load()
    (tmp_path / "checkpoint" / "checkpoint.json").write_text('{"last": 1}')
    with pytest.raises(DataError, match="damaged"):
        checkpoint.best()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_of_the_checkpoint_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint = Checkpoint(folder)
    save(checkpoint, 1, 1)
    for name in ("@eaDir", ".ipynb_checkpoints"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("x")
    (folder / "notes.txt").write_text("mine")
    (folder / ".part-0123456789ab.keras").write_text("a kill left it")
    save(checkpoint, 2, 2)
    others = {"@eaDir", ".ipynb_checkpoints", "notes.txt"}
    own = {"last-00002.keras", "best-00002.keras", "checkpoint.json"}
    assert {path.name for path in folder.iterdir()} == own | others
    checkpoint.remove()
    assert {path.name for path in folder.iterdir()} == others
    assert checkpoint.load() is None


# A loss that is no number


@pytest.mark.parametrize(
    ("name", "value", "epoch"),
    [("loss", np.nan, 1), ("val_loss", np.nan, 1), ("loss", np.inf, 3), ("val_loss", np.inf, 2)],
)
def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float, epoch: int
) -> None:
    losses = iter(range(1, 9))

    def row(*_: object) -> dict[str, float]:
        number = next(losses)
        return {"loss": value if (name, number) == ("loss", epoch) else 1.0, "number": number}

    def validated(*_: object) -> dict[str, float]:
        bad = name == "val_loss" and checked["number"] == epoch
        return {"val_loss": value if bad else 1.0 / checked["number"]}

    checked: dict[str, float] = {}
    monkeypatch.setattr(
        training, "_train_epoch", lambda *a: (checked.update(row()), {"loss": checked["loss"]})[1]
    )
    monkeypatch.setattr(training, "_validate", validated)
    monkeypatch.setattr(training, "_new_model", lambda *_: Stub(0))
    monkeypatch.setattr(training, "_network_of", lambda model: Stub(7))
    monkeypatch.setattr(training, "_seed_dropout", lambda *_: None)
    monkeypatch.setattr(training, "_make_repeatable", lambda *_: None)
    monkeypatch.setattr(training, "Feed", lambda *_: None)
    monkeypatch.setattr(training, "_grid", lambda *_: None)
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    nothing: Samples = SimpleNamespace()  # type: ignore[assignment]
    with pytest.raises(Diverged, match=f"diverged in epoch {epoch}: the .* loss is .*--learning"):
        train(TrainSettings(epochs=5), nothing, nothing, 2, checkpoint)
    kept = checkpoint.load()
    assert (0 if kept is None else kept[1].epoch) == epoch - 1
    if kept is not None:
        assert checkpoint.best() == 7
        assert kept[1].best_epoch == epoch - 1
