"""What becomes of a received study once it is answered."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import BtcError
from edge_runtime.services.delivery import Outbox
from edge_runtime.services.desk import Answered

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
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
        """As `Desk` calls it, at least once for each answer.

        Raises:
            OSError: the results cannot be kept; the desk answers again later.
        """
        record = answered.record
        key = sha256(f"{record.subject}\n{record.content}\n{record.model}".encode()).hexdigest()[
            :32
        ]
        if self._outbox.has(key):  # the process ended between this and the journal
            return
        paths = [Path(str(file.source)) for file in answered.files]
        try:
            results = self._results(answered, paths)
        except (OSError, BtcError):
            raise
        except Exception as error:  # highdicom raises many kinds where a header is odd
            problem = f"no results can be made of it ({type(error).__name__}); its files stay"
            self._tell(f"{answered.prediction.input}: {problem}")
            self._outbox.put(key, (), paths, held=True)
            return
        self._outbox.put(key, [(each.instance, each.data) for each in results], paths)

    def _results(self, answered: Answered, paths: list[Path]) -> list[Result]:
        if self._classifier is None:
            return []
        from edge_runtime.services.results import make_results, read_sources

        return make_results(self._classifier, answered.prediction, read_sources(paths))
