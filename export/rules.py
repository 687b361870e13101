"""Decision rules fitted on what an exported file itself answers, in one runtime after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.metadata import FITTED, OWN_OOD
from export.runtimes import Runtime
from trainer.evaluation.decision_rule import (
    DecisionRule,
    SideOutputs,
    fit_decision_rule,
    refit_decision_rule,
)
from trainer.evaluation.selective import Targets, tumour_free_among, tumour_free_of
from trainer.evaluation.study import FILE as HEADS
from trainer.evaluation.study import HeadSlices, TooFewHeads, fit_study_rule, known_series
from trainer.run import Images, Run


class RuleFitter:
    """Fits the rules of a run's files.

    Args:
        validation: images of that side, which the run held out.
        targets: error rates that thresholds are chosen for.
    """

    def __init__(self, run: Run, validation: Images, targets: Targets) -> None:
        self._run, self._validation, self._targets = run, validation, targets
        self._free = tumour_free_of(run.settings)
        heads = run.folder / HEADS
        there = run.settings.get("study") is not None and heads.is_file()
        self._heads: Path | None = heads if there else None

    def fit(self, file: ModelFile, runtime: Runtime) -> DecisionRule:
        """Temperature, thresholds, the check for out-of-distribution inputs and the views that are
        answered, all fitted on what the file answers in a runtime."""
        return fit_decision_rule(
            lambda images: runtime.predict(file, images),
            self._run.calibration_images(),
            self._outputs(file, runtime),
            file.info.labels,
            file.info.preprocess,
            self._targets,
            self._free,
        )

    def refit(self, file: ModelFile, runtime: Runtime, anew: bool = False) -> DecisionRule:
        """The rule that a file has, for what it answers in a runtime; see `refit_decision_rule`.

        Args:
            anew: choose thresholds as if the file had none.
        """
        known, outputs = DecisionRule.from_settings(vars(file.info)), self._outputs(file, runtime)
        promised = None if anew else file.info.target_error
        return refit_decision_rule(
            known, outputs, file.info.labels, self._targets, self._free, promised
        )

    def own(self, file: ModelFile, runtime: Runtime) -> dict[str, Any]:
        """The same as an entry of `ModelInfo.rules`."""
        rule = self.refit(file, runtime)
        fields = rule.to_settings()
        own = {"version": runtime.version, "temperature": rule.temperature}
        own |= {name: fields.get(name) for name in FITTED}
        if fields["ood"] is not None:
            own["ood"] = {name: fields["ood"][name] for name in OWN_OOD}
        if self._heads is not None:
            own["study"] = self.study(file, runtime, rule)
        return own

    def study(self, file: ModelFile, runtime: Runtime, rule: DecisionRule) -> dict[str, Any] | None:
        """The rule for studies, fitted on what the file answers in a runtime; None where the run
        was trained without whole heads, or they are too few for this file."""
        if self._heads is None:
            return None
        labels = file.info.labels
        known = known_series(
            HeadSlices.read(self._heads),
            lambda images: runtime.predict(file, images),
            rule,
            labels,
        )
        free = tuple(sorted(tumour_free_among(labels, self._free)))
        try:
            return fit_study_rule(known, labels, free, rule.view).to_json()
        except TooFewHeads:
            return None

    def _outputs(self, file: ModelFile, runtime: Runtime) -> SideOutputs:
        """What it answers on the validation side."""
        side = self._validation
        outputs = runtime.predict(file, side.pixels)
        return SideOutputs(outputs, side.labels, side.groups, side.planes, side.sequences)
