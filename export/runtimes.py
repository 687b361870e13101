"""The runtimes that a file is fitted and proved with: those of this environment, and of others.

One file answers differently in each, and not all can be installed beside TensorFlow: tflite-runtime
wants numpy 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import BackendError, UsageError
from edge_runtime.model.backends import interpreter_version
from edge_runtime.model.file_format import ModelFile, pack_model
from edge_runtime.model.outputs import outputs_elsewhere, version_elsewhere
from trainer.models.outputs import ModelOutputs, Pixels, predict_file


@dataclass(frozen=True)
class Runtime:
    """A runtime that can be asked.

    Attributes:
        name: one of `edge_runtime.model.backends.BACKENDS`, or `auto`.
        python: of the environment where it is installed; None for this one.
    """

    name: str
    version: str
    python: Path | None = None

    def predict(
        self, file: ModelFile, images: Pixels, progress: Callable[[int, int], None] | None = None
    ) -> ModelOutputs:
        """What it gives for slices, as a device asks it.

        Raises:
            BackendError, ModelError: it cannot run the file.
        """
        if self.python is None:
            return predict_file(file, images, backend=self.name, progress=progress)
        data = pack_model(file.graph, file.info, file.format)
        return ModelOutputs(**outputs_elsewhere(self.python, self.name, data, images))


AUTO = Runtime("auto", "")


def open_elsewhere(pythons: Mapping[str, Path]) -> dict[str, Runtime]:
    """Runtimes of other environments.

    Args:
        pythons: runtime -> Python.

    Raises:
        UsageError: one does not run there, or our code there is not this.
    """
    found = {}
    for name, python in pythons.items():
        try:
            found[name] = Runtime(name, version_elsewhere(python, name), python)
        except BackendError as error:
            raise UsageError(f"--runtime {name}: {error}") from None
    return found


def at_hand(promised: Iterable[str], elsewhere: Mapping[str, Runtime]) -> list[Runtime]:
    """Those of the promised runtimes that are there, in their order; one that was named in another
    environment is asked there."""
    found = []
    for name in promised:
        if name in elsewhere:
            found.append(elsewhere[name])
            continue
        try:
            found.append(Runtime(name, interpreter_version(name)))
        except BackendError:
            continue
    return found
