"""Conversion of the classical models to ONNX.

One graph holds the projection and the classifier: `features` (float32 1×F, as
`edge_runtime.imaging.handcrafted` measures them) to `logits` (1×C) and `components` (1×K), which
the out-of-distribution detector looks at. Where a network's features are what the classifier
learned from, the network stands in front and the graph takes `pixels` (float32 1×S×S×1).

The file of a support vector machine or of nearest neighbours holds the components of training
slices. They are no pictures, but whoever has the file has these numbers too.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import ModelError, one_line
from edge_runtime.quiet import quiet_descriptor
from export.onnx.network import OPSET, canonical_names, checked

if TYPE_CHECKING:
    from trainer.models.classical import ClassicalModel

OUTPUTS = {"logits": 0, "features": 1}
_OUTPUT_NAMES = ["logits", "components"]  # of the graph; `features` is the input's name
# ONNX Runtime 1.17 reads it; skl2onnx then writes operators of its version 1.
_OPSETS = {"": OPSET, "ai.onnx.ml": 3}


def convert_classical(model: ClassicalModel, classes: int, network: bytes | None = None) -> bytes:
    """An ONNX protobuf that gives what `ClassicalModel.predict` gives, checked in full.

    Args:
        model: fitted on class indices, all of 0 to `classes` - 1.
        classes: C.
        network: from `export.onnx.network.convert_onnx`, if its one output is what the model takes.

    Raises:
        ModelError: a class that the model does not know, or skl2onnx or the checker refuses it.
        ModuleNotFoundError: the extra is not installed.
    """
    import onnx
    import skl2onnx  # noqa: F401 - if it is missing, that is no failed conversion

    projection, classifier = model.pipeline[:-1], model.pipeline[-1]
    if list(classifier.classes_) != list(range(classes)):
        raise ModelError(f"the classifier does not know each of the {classes} classes")
    length = projection.n_features_in_
    width = int(projection[-1].n_components_)
    try:
        with quiet_descriptor():
            graph = _Joined("features", [1, length])
            if network is not None:
                graph = _Joined("pixels", _input_shape(network))
                graph.append(onnx.load_from_string(network), graph.last)
            components = graph.append(_converted(projection, length), graph.last)
            if _is_neighbours(classifier):
                scores = _neighbours(graph, classifier, components)
            else:
                scores = graph.append(_converted(classifier, width, model.floor == 0), components)
            if model.floor:
                floor = graph.constant(np.array([model.floor], np.float32))
                scores = graph.add("Log", graph.add("Max", scores, floor))
            return graph.finished([(scores, classes), (components, width)])
    except Exception as error:  # converters raise whatever their parts raise
        raise ModelError(f"the ONNX conversion failed: {one_line(error)}") from None


def _converted(part: Any, length: int, margins: bool | None = None) -> Any:
    """skl2onnx's graph of a transformer, or of a classifier's margins or probabilities."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    options = None
    if margins is not None:
        options = {id(part): {"zipmap": False} | ({"raw_scores": True} if margins else {})}
    entry = [("input", FloatTensorType([1, length]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it looks at what scikit-learn will drop
        return convert_sklearn(part, initial_types=entry, options=options, target_opset=_OPSETS)


def _is_neighbours(classifier: Any) -> bool:
    from sklearn.neighbors import KNeighborsClassifier

    return isinstance(classifier, KNeighborsClassifier)


def _neighbours(graph: _Joined, classifier: Any, components: str) -> str:
    """The shares of the classes among the nearest neighbours.

    Written out, since skl2onnx measures distances in a loop that takes ten times as long. Of
    |t - c|², what is the same for each slice t of the training does not change the order: |c|².
    """
    if classifier.weights != "uniform" or classifier.effective_metric_ != "euclidean":
        raise ValueError("neighbours that are weighted, or near by another measure")
    neighbours = np.asarray(classifier._fit_X, np.float32)
    squares = (neighbours.astype(np.float64) ** 2).sum(axis=1).astype(np.float32)
    votes = np.eye(len(classifier.classes_), dtype=np.float32)[classifier._y]
    products = graph.add("MatMul", components, graph.constant(-2 * neighbours.T))
    distances = graph.add("Add", products, graph.constant(squares[None]))
    count = graph.constant(np.array([classifier.n_neighbors], np.int64))
    nearest = graph.add("TopK", distances, count, axis=1, largest=0, outputs=2)
    chosen = graph.add("Gather", graph.constant(votes), nearest, axis=0)  # 1×neighbours×C
    return graph.add("ReduceMean", chosen, axes=[1], keepdims=0)


class _Joined:
    """A graph that grows from its input on.

    Attributes:
        last: what the next part takes: the input, or what `append` gave last.
    """

    def __init__(self, entry: str, shape: list[int]) -> None:
        self._entry, self._shape = entry, shape
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._parts = 0
        self.last = entry

    def append(self, part: Any, entry: str) -> str:
        """Put a model of one input behind the tensor `entry`; the name of its last output."""
        from onnx.compose import add_prefix

        self._parts += 1
        graph = add_prefix(part, f"part{self._parts}/").graph
        given = graph.input[0].name
        for node in graph.node:
            node.input[:] = [entry if name == given else name for name in node.input]
        self._nodes += graph.node
        self._weights += graph.initializer
        self.last = graph.output[-1].name
        return self.last

    def constant(self, values: Any) -> str:
        """The name of a tensor with these values."""
        from onnx import numpy_helper

        name = f"constant{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add an operator; the name of its last output."""
        from onnx import helper

        names = [f"{op}{len(self._nodes)}/{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[-1]

    def finished(self, outputs: list[tuple[str, int]]) -> bytes:
        """The model's bytes, with outputs (name, values) of 1×values and nothing that they do not
        need.

        Raises:
            Exception: whatever the checker raises on a model that is not in order.
        """
        from onnx import TensorProto, helper

        def tensor(name: str, shape: list[int]) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        needed, kept = {name for name, _ in outputs}, []
        for node in reversed(self._nodes):  # a part's nodes stand in the order of their work
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        graph = helper.make_graph(
            kept[::-1],
            "btc-edge",
            [tensor(self._entry, self._shape)],
            [tensor(name, [1, n]) for name, n in outputs],
            [weight for weight in self._weights if weight.name in needed],
        )
        opsets = [helper.make_opsetid(domain, n) for domain, n in _OPSETS.items()]
        canonical_names(graph, self._entry, _OUTPUT_NAMES)
        return checked(helper.make_model(graph, opset_imports=opsets))


def _input_shape(network: bytes) -> list[int]:
    import onnx

    (entry,) = onnx.load_from_string(network).graph.input
    return [d.dim_value for d in entry.type.tensor_type.shape.dim]
