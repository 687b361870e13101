"""What becomes of a received study once it is answered."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from os import urandom
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError, ModelError, one_line
from edge_runtime.services.delivery import Outbox
from edge_runtime.services.watcher import Answered
from edge_runtime.studies.drop import DropFile

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
    from edge_runtime.decision.prediction import Prediction
    from edge_runtime.services.results import Result


class Returns:
    """Makes the results of each answer, and hands them over with the files that may go then.

    Args:
        classifier: for the heatmap; None where no results are asked for.
        tell: called with a line on what happened.
    """

    def __init__(
        self, classifier: Classifier | None, outbox: Outbox, tell: Callable[[str], None]
    ) -> None:
        self._classifier, self._outbox, self._tell = classifier, outbox, tell

    def on_answer(self, answered: Answered) -> None:
        """As `Watcher` calls it, at least once for each answer.

        Raises:
            OSError: the results cannot be kept; the watcher answers again later.
        """
        key = _key(answered)
        if self._outbox.has(key):  # the process ended between this and the journal
            return
        paths = [Path(str(file.source)) for file in answered.files]
        if self._classifier is None:
            self._outbox.put(key, (), paths)
            return
        try:
            results, others = self._results(self._classifier, answered.prediction, paths)
        except (OSError, ModelError):
            raise
        except Exception as error:  # highdicom raises many kinds where a header is odd
            why = one_line(error) if isinstance(error, InputError) else type(error).__name__
            name = answered.prediction.input
            self._tell(f"{name}: no results can be made of it: {why}; its files stay")
            self._outbox.put(key, (), paths, held=True)
            return
        # Another patient's may have gone with results of theirs, and come anew since.
        files = [path for path in paths if path not in others and path.exists()]
        made = [(each.instance, each.data) for each in results]
        self._outbox.put(key, made, files, others=others)

    def on_known(self, files: tuple[DropFile, ...]) -> None:
        """As `Watcher` calls it for a study that came once more as it was: its files may go, and
        its results are not sent again.

        Raises:
            OSError: that cannot be kept; the watcher tries again later.
        """
        paths = [Path(str(file.source)) for file in files]
        if not self._outbox.waits_for(paths):
            self._outbox.put(urandom(16).hex(), (), paths)

    def _results(
        self, classifier: Classifier, answer: Prediction, paths: list[Path]
    ) -> tuple[list[Result], list[Path]]:
        """The results, and the files of other patients, which may not go with them."""
        from edge_runtime.services.results import make_results, of_answer, read_sources

        sources = read_sources(paths)
        wanted = of_answer(answer, sources)
        own = {source.path for source in wanted}
        others = [source.path for source in sources if source.path not in own]
        return make_results(classifier, answer, wanted), others


def _key(answered: Answered) -> str:
    """The same for the same answer, whenever it is made."""
    record, answer = answered.record, answered.prediction
    digests = [each.sha256 or "" for each in answer.slices or ()]
    words = [record.subject, record.content, record.model, answer.status.value, *digests]
    return sha256("\n".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
