"""The state of a training between two epochs, on disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.errors import DataError, one_line
from edge_runtime.files import replacing, write_text
from edge_runtime.json_text import parse_json

if TYPE_CHECKING:
    import keras

POINTER = "checkpoint.json"
# Its files: of this layout, of the former one, and what a kill left half written (`replacing`).
OWN = re.compile(
    r"checkpoint\.json|(last|best)(-\d+)?\.keras|state\.json|\.part-[0-9a-f]{12}\.(keras|json)"
)


@dataclass
class State:
    """Where a training stands between two epochs."""

    epoch: int  # epochs finished
    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]


class _Place(NamedTuple):
    """A whole checkpoint: its state, and the files of the two models."""

    state: State
    last: Path
    best: Path


class Checkpoint:
    """The folder that holds the state between epochs.

    Every epoch writes files with its number, and then one pointer, `checkpoint.json`, that holds
    the state and names the files which belong to it. The pointer is replaced whole (`replacing`
    syncs the file before and the folder after), and files that it does not name are deleted only
    then: whenever the process or the machine stops, the pointer names a whole checkpoint, the new
    one or the one before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether an epoch was finished.

        Raises:
            DataError: a checkpoint that cannot be read.
        """
        return self._place() is not None

    def save(self, model: keras.Model, network: keras.Model, state: State) -> None:
        """Save after an epoch: the trained model with its optimiser, and the best network."""
        self.folder.mkdir(parents=True, exist_ok=True)
        last = f"last-{state.epoch:05d}.keras"
        best = f"best-{state.best_epoch:05d}.keras"
        with replacing(self.folder / last) as part:
            model.save(part)
        if state.best_epoch == state.epoch:
            with replacing(self.folder / best) as part:
                network.save(part)
        elif not (self.folder / best).is_file():  # of the former layout
            before = self._place()
            if before is None:
                raise DataError("the checkpoint has lost the network of its best epoch")
            with replacing(self.folder / best) as part:
                shutil.copyfile(before.best, part)
        content = {"state": asdict(state), "last": last, "best": best}
        write_text(self.folder / POINTER, json.dumps(content) + "\n")
        self._delete(keep=(POINTER, last, best))
        self._remove_former()

    def load(self) -> tuple[keras.Model, State] | None:
        """The last saved model and state, or None where no epoch was finished.

        Raises:
            DataError: a checkpoint that cannot be read.
        """
        import trainer.models.losses  # noqa: F401  (a saved model names them)

        place = self._place()
        return None if place is None else (_load(place.last), place.state)

    def best(self) -> keras.Model:
        """The model of the best epoch so far.

        Raises:
            DataError: no epoch was finished, or a checkpoint that cannot be read.
        """
        place = self._place()
        if place is None:
            raise DataError("the training has finished no epoch: there is no best one")
        return _load(place.best)

    def remove(self) -> None:
        """Delete the checkpoint, and its folder where nothing else is in it: the training is
        finished."""
        (self.folder / POINTER).unlink(missing_ok=True)
        with suppress(OSError):  # what is left does no harm
            self._delete()
            self.folder.rmdir()
        self._remove_former()

    def _delete(self, keep: Sequence[str] = ()) -> None:
        """Delete the checkpoint's files but those to `keep`; what file servers and others put
        beside them is not ours."""
        for path in self.folder.iterdir():
            if path.name not in keep and OWN.fullmatch(path.name):
                path.unlink()

    def _place(self) -> _Place | None:
        """The newest whole checkpoint; the one look at the folder that all others go by."""
        pointer = self.folder / POINTER
        try:
            if pointer.is_file():
                content = parse_json(pointer.read_text("utf-8"))
                last, best = (self.folder / Path(content[key]).name for key in ("last", "best"))
                return _Place(_state(content["state"]), last, best)
            # The former layout: one folder, replaced by renaming; a kill may have left `.old` only.
            for folder in (self.folder, self.folder.with_name(self.folder.name + ".old")):
                if (folder / "state.json").is_file():
                    state = _state(parse_json((folder / "state.json").read_text("utf-8")))
                    return _Place(state, folder / "last.keras", folder / "best.keras")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"the checkpoint is damaged: {one_line(error)}") from None
        return None

    def _remove_former(self) -> None:
        for suffix in (".part", ".old"):
            shutil.rmtree(self.folder.with_name(self.folder.name + suffix), ignore_errors=True)


def _state(content: dict[str, Any]) -> State:
    return State(**content)


def _load(path: Path) -> keras.Model:
    import keras

    try:
        return keras.saving.load_model(path)
    except Exception as error:  # Keras raises whatever its parts raise
        raise DataError(f"the checkpoint's {path.name} is damaged: {one_line(error)}") from None
