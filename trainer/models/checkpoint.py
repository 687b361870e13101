"""The state of a training between two epochs, on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import DataError

if TYPE_CHECKING:
    import keras


@dataclass
class State:
    """Where a training stands between two epochs."""

    epoch: int  # epochs finished
    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]


class Checkpoint:
    """The folder that holds the state between epochs; replaced whole by renaming."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, model: keras.Model, network: keras.Model, state: State) -> None:
        """Save after an epoch: the trained model with its optimiser, and the best network."""
        part = self.folder.with_name(self.folder.name + ".part")
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        model.save(part / "last.keras")
        if state.best_epoch == state.epoch:
            network.save(part / "best.keras")
        else:
            shutil.copyfile(self.folder / "best.keras", part / "best.keras")
        (part / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        part.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[keras.Model, State] | None:
        """The last saved model and state, or None where no epoch was finished.

        Raises:
            DataError: a checkpoint that cannot be read.
        """
        import keras

        import trainer.models.losses  # noqa: F401  (a saved model names them)

        for folder in (self.folder, self.folder.with_name(self.folder.name + ".old")):
            if (folder / "state.json").is_file():
                try:
                    state = State(**json.loads((folder / "state.json").read_text("utf-8")))
                    return keras.saving.load_model(folder / "last.keras"), state
                except (OSError, ValueError, TypeError) as error:
                    raise DataError(f"the checkpoint is damaged: {error}") from None
        return None

    def best(self) -> keras.Model:
        """The model of the best epoch so far."""
        import keras

        return keras.saving.load_model(self.folder / "best.keras")

    def remove(self) -> None:
        """Delete the folder: the training is finished."""
        for suffix in ("", ".part", ".old"):
            shutil.rmtree(self.folder.with_name(self.folder.name + suffix), ignore_errors=True)
