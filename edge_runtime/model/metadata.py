"""What a model says of itself: the `model.json` inside every model file.

Schema 2 calls the check for out-of-distribution inputs `ood`; schema 1, which is read too, called
it `unfamiliar`. A version that reads schema 1 only must refuse a file whose check it would not
see: so the name could not change within a schema. For the same reason a file with a `view` or a
`pooling` is of schema 3: a version without a view would answer slices that the model was never
validated for, and one without pooling would find the outputs impossible and could not say why. A
file without either stays in schema 2, which older versions read. The rule for `study` raises no
schema: a version that ignores it pools a study's slices as before, which answers "uncertain" more
often, never "no tumour" where a slice is answered as a tumour.

The same file answers differently in another runtime, so what is fitted on answers holds for the
runtime that gave them: `fitted_with` names it, and `rules` hold what was fitted with others. They
raise no schema either: the fields beside them are those of the runtime that they were fitted with,
as in every file before, and a version that passes over `rules` answers by them in each runtime, as
it always did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from edge_runtime.errors import ModelError, one_line
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.json_text import parse_json
from edge_runtime.model.pooling import POOLINGS

SCHEMA = 2
NEWEST = 3  # of a file with one of NEWER
NEWER = ("pooling", "view")
READABLE = range(1, NEWEST + 1)
MOST_LABELS = 1000
# What a rule may be fitted with: `edge_runtime.model.backends.BACKENDS`, which rest on this module.
RUNTIMES = ("litert", "tflite-runtime", "tensorflow", "onnxruntime")
MOST_RULES = 16  # some of runtimes that this version does not know, which it passes over
FITTED = ("thresholds", "target_error", "confidence", "error_bound", "max_error")
OWN_OOD = ("levels", "threshold")  # of the check; its matrices stay
INTENDED_USE = "Research use only; not for diagnosis."  # the one sentence, wherever it stands


def _known_rules(rules: Any) -> dict[str, Any] | None:
    """The rules of runtimes that this version knows."""
    if rules is None:
        return None
    if not isinstance(rules, dict) or len(rules) > MOST_RULES:
        raise ValueError("rules")
    return {name: rule for name, rule in rules.items() if name in RUNTIMES} or None


def _is_runtime(value: Any) -> bool:
    """Whether it names a runtime with its version; of runtimes that this version lacks, too."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) and len(value[name]) <= 64 and value[name].isprintable()
        for name in ("runtime", "version")
    )


def is_label(name: object) -> bool:
    """Whether a class of a model may have this name: a text that shows, without control
    characters, which could steer a terminal."""
    return isinstance(name, str) and name.isprintable() and bool(name.strip())


@dataclass(frozen=True)
class ModelInfo:
    """The metadata of one model file; `None` stands for what is not known.

    Attributes:
        labels: class names in the order of the logits.
        preprocess: how a slice becomes the input.
        input: dtype, shape (batch, height, width, channel) and value range of the graph's input;
            the shape is (batch, feature) and the range None where `features` are given.
        outputs: name -> index of the graph's outputs; `logits` but where there is a `pooling`,
            `features` (the penultimate ones) and `class_maps` (a map per class) where the network
            gives them.
        pooling: one of `edge_runtime.model.pooling.POOLINGS`, which makes logits of the graph's
            class maps; None where the graph gives logits.
        quantization: scheme (`float32`, `float16`, `dynamic`, `int8-full`), calibration.
        temperature: the logits are divided by it before softmax.
        thresholds: lowest confidence per label that counts as an answer.
        ood: the check for out-of-distribution inputs, see `OodDetector`.
        view: what tells plane and sequence, and which of them the model was validated for, see
            `edge_runtime.decision.view.View`.
        study: the rule for one answer from the slices of a study, see
            `edge_runtime.decision.study.StudyRule`.
        target_error: label -> the share of wrong answers that its threshold was chosen for.
        confidence: that the share is not exceeded on slices like those of the validation side, for
            each label.
        error_bound: label -> the share of wrong answers that the validation side supports at the
            threshold with that confidence; a label that is never answered has none.
        max_error: the largest of `target_error`. In a file of an older version, where there is no
            `confidence`, the error rate on validation slices that all thresholds were chosen for.
        metrics: figures, each with the protocol that gave it.
        data: digest and counts of the training data.
        graph_sha256: digest of the graph's bytes, checked before an interpreter sees them.
        features: `sets` (of `edge_runtime.imaging.handcrafted`, in order) and `length` (values of
            all together) that the graph takes in place of the slice; None where it takes the
            slice.
        fitted_with: `runtime` and `version` that temperature, thresholds, `ood` and `study` were
            fitted with; None where the file does not say, as an older one.
        rules: runtime -> what was fitted with it instead: `version`, `temperature`, FITTED, of
            `ood` OWN_OOD, and `study` where it could be. See `for_runtime`.
        schema: of the file that it was read from; for what it is written in see `to_json`.
    """

    name: str
    version: str
    created: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    input: Mapping[str, Any]
    outputs: Mapping[str, int]
    quantization: Mapping[str, Any]
    graph_sha256: str = ""
    features: Mapping[str, Any] | None = None
    pooling: str | None = None
    temperature: float = 1.0
    thresholds: Mapping[str, float] | None = None
    ood: Mapping[str, Any] | None = None
    view: Mapping[str, Any] | None = None
    study: Mapping[str, Any] | None = None
    target_error: Mapping[str, float] | None = None
    confidence: float | None = None
    error_bound: Mapping[str, float] | None = None
    max_error: float | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    source_commit: str | None = None
    intended_use: str = INTENDED_USE
    license: str | None = None
    fitted_with: Mapping[str, str] | None = None
    rules: Mapping[str, Mapping[str, Any]] | None = None
    schema: int = SCHEMA

    @property
    def scheme(self) -> str:
        """Short name of the quantisation: `int8`, `float16`, …"""
        return str(self.quantization["scheme"]).partition("-")[0]

    def for_runtime(self, runtime: str) -> ModelInfo:
        """The metadata with the decision rule that was fitted with a runtime; as they are where it
        is the one of `fitted_with`, or has no rule."""
        own = (self.rules or {}).get(runtime)
        if own is None:
            return self
        fitted = {name: own[name] for name in ("temperature", *FITTED, "study") if name in own}
        if self.ood is not None:
            fitted["ood"] = {**self.ood, **{name: own["ood"][name] for name in OWN_OOD}}
        with_it = {"runtime": runtime, "version": own["version"]}
        return replace(self, **fitted, fitted_with=with_it, rules=None)

    def is_fitted_for(self, runtime: str) -> bool | None:
        """Whether there is a decision rule that was fitted with a runtime, of whichever version;
        None where the file does not say what its rule was fitted with."""
        if self.fitted_with is None:
            return None
        return runtime == self.fitted_with["runtime"] or runtime in (self.rules or {})

    def to_json(self) -> str:
        """The text of `model.json`: in the newest schema where a field needs it, else in schema 2,
        without those fields. What came later and a file does not have is left out, as before.
        """
        shape = asdict(self) | {"preprocess": self.preprocess.to_json()}
        for name in ("study", "fitted_with", "rules"):
            if shape[name] is None:
                del shape[name]
        needs = [name for name in NEWER if shape[name] is not None]
        shape = {name: value for name, value in shape.items() if name in needs or name not in NEWER}
        shape["schema"] = NEWEST if needs else SCHEMA
        return json.dumps(shape, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelInfo:
        """Read and check what `to_json` wrote; fields this version does not know are ignored.

        Raises:
            ModelError: not JSON, another schema, a missing field or an impossible value.
        """
        try:
            shape = parse_json(text)
        except ValueError as error:
            raise ModelError(f"the model's metadata is not valid JSON: {one_line(error)}") from None
        if not isinstance(shape, dict):
            raise ModelError("the model's metadata is not a JSON object")
        schema = shape.get("schema")
        if type(schema) is not int or schema not in READABLE:
            raise ModelError(
                f"the model's metadata has schema {repr(schema)[:40]}; "
                f"this version reads 1 to {NEWEST}: update btc-edge or export the model again"
            )
        for name in NEWER:
            if schema < NEWEST and shape.get(name) is not None:
                raise ModelError(
                    f"the model's metadata of schema {schema} has {name!r}, which came with schema "
                    f"{NEWEST}: an older btc-edge would not know of it"
                )
        ours, foreign = ("unfamiliar", "ood") if schema == 1 else ("ood", "unfamiliar")
        if shape.get(foreign) is not None:  # as a field that is not known, it would be passed over
            raise ModelError(
                f"the model's metadata of schema {schema} has {foreign!r}, which is called "
                f"{ours!r} there: its check for out-of-distribution inputs would be lost"
            )
        shape["ood"] = shape.get(ours)
        known = {f.name for f in fields(cls)}
        try:
            kept = {key: value for key, value in shape.items() if key in known}
            kept["preprocess"] = Preprocess.from_json(kept["preprocess"])
            kept["labels"] = tuple(kept["labels"])
            kept["metrics"] = tuple(kept.get("metrics") or ())
            kept["rules"] = _known_rules(kept.get("rules"))
            info = cls(**kept)
            info._check()
            info._check_rules()
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"the model's metadata is incomplete or wrong: {str(error)[:200]}"
            ) from None
        return info

    def _check(self) -> None:
        size = self.preprocess.size
        length = self._features_length()
        shape = [1, size, size, 1] if length is None else [1, length]
        dtypes = ["uint8", "float32"] if length is None else ["float32"]
        answer = self._answer_output()
        checks = {
            "labels": 2 <= len(self.labels) <= MOST_LABELS
            and len(set(self.labels)) == len(self.labels)
            and all(map(is_label, self.labels)),
            "name and version": all(
                isinstance(t, str) and t.isprintable() for t in (self.name, self.version)
            ),
            "graph_sha256": isinstance(self.graph_sha256, str) and len(self.graph_sha256) == 64,
            "temperature": isinstance(self.temperature, (int, float))
            and 1e-6 <= self.temperature <= 1e6,
            "input": self.input["dtype"] in dtypes and list(self.input["shape"]) == shape,
            "outputs": answer in self.outputs
            and all(isinstance(i, int) and 0 <= i < 8 for i in self.outputs.values()),
            "pooling beside logits": self.pooling is None or "logits" not in self.outputs,
            "quantization": isinstance(self.quantization["scheme"], str),
            **{
                name: by_label is None
                or (
                    all(label in self.labels for label in by_label)
                    and all(isinstance(t, (int, float)) and 0 <= t <= 1 for t in by_label.values())
                )
                for name, by_label in (
                    ("thresholds", self.thresholds),
                    ("target_error", self.target_error),
                    ("error_bound", self.error_bound),
                )
            },
            "confidence": self.confidence is None or 0 < self.confidence < 1,
            "ood": self.ood is None
            or (isinstance(self.ood, dict) and bool(self.ood) and "features" in self.outputs),
            "view": self.view is None
            or (isinstance(self.view, dict) and bool(self.view) and "features" in self.outputs),
            "study": self.study is None or (isinstance(self.study, dict) and bool(self.study)),
            "max_error": self.max_error is None or 0 <= self.max_error <= 1,
            "data": isinstance(self.data, dict),
            "metrics": all(isinstance(m, dict) for m in self.metrics),
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise ModelError(f"the model's metadata has an impossible value: {', '.join(wrong)}")

    def _check_rules(self) -> None:
        """The rule of each runtime must be one that the file itself could have."""
        with_it, rules = self.fitted_with, self.rules or {}
        if (with_it is not None and not _is_runtime(with_it)) or (rules and with_it is None):
            raise ModelError("the model's metadata has an impossible value: fitted_with")
        for name, rule in rules.items():
            if (
                not isinstance(rule, dict)
                or name == (with_it or {})["runtime"]
                or not _is_runtime({"runtime": name, "version": rule.get("version")})
                or not {"temperature", "thresholds"} <= set(rule)
                or (self.ood is not None and not isinstance(rule.get("ood"), dict))
            ):
                raise ModelError(f"the model's metadata has an impossible value: rules of {name}")
            try:
                self.for_runtime(name)._check()
            except ModelError as error:
                raise ModelError(f"{error} (rules of {name})") from None

    def _answer_output(self) -> str:
        """The output that the answer comes from.

        Raises:
            ModelError: a pooling that this version lacks.
        """
        if self.pooling is None:
            return "logits"
        if not isinstance(self.pooling, str):
            raise ModelError("the model's metadata has an impossible value: pooling")
        if self.pooling not in POOLINGS:
            raise ModelError(
                f"the model pools its class maps by {self.pooling[:40]!r}, which this version "
                "cannot compute: update btc-edge"
            )
        return "class_maps"

    def _features_length(self) -> int | None:
        """How many features the graph takes; None where it takes the slice.

        Raises:
            ModelError: sets that this version lacks, or another number than they give.
        """
        if self.features is None:
            return None
        from edge_runtime.imaging.handcrafted import DEVICE_SETS, names_of

        sets, length = self.features["sets"], self.features["length"]
        if (
            not isinstance(sets, list)
            or not sets
            or not all(isinstance(name, str) for name in sets)
            or len(set(sets)) != len(sets)
        ):
            raise ModelError("the model's metadata has an impossible value: features")
        for name in sets:
            if name not in DEVICE_SETS:
                raise ModelError(
                    f"the model takes the features {name[:40]!r}, which this version cannot "
                    "compute: update btc-edge"
                )
        given = len(names_of(sets, self.preprocess.size))
        if type(length) is not int or length != given:
            raise ModelError(
                f"the model takes another number of features than the {given} that this version "
                "computes: update btc-edge or export the model again"
            )
        return given
