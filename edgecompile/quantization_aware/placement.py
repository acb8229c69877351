"""Where in a graph the values are rounded to int8, so that all of it computes in int8 but for the layers that can't.

Every tensor gets a range of its own, but for those that the .tflite never has (between a convolution, its BatchNorm
and its ReLU), those whose range another one settles, and those that pass from one float layer to another.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edgecompile.quantization_aware.graph import Graph, outputs_of
from edgecompile.quantization_aware.kinds import (
    FIXED,
    FLOAT,
    KEEPS,
    KERNEL,
    NORM,
    OPERATOR,
    activation_of,
    is_clip,
    kind_of,
)

_FOLDING = ("Conv2D", "DepthwiseConv2D")  # the converter multiplies BatchNorm into their quantized kernels
CLIPPING = ("Add", "Subtract", "Conv2D", "DepthwiseConv2D", "Dense", "BatchNormalization", "Conv1D", "DepthwiseConv1D")


@dataclass(frozen=True)
class Placement:
    """ranged: ids of the tensors that are rounded on a range of their own. left: by name, the layers that the scheme
    has no int8 operator for, and what they are."""

    ranged: frozenset[int]
    left: dict[str, str]


def place(graph: Graph, in_float: Collection[str] = ()) -> Placement:
    """in_float: names of layers that stay in float though the scheme has operators for them."""
    return _Placing(graph, in_float).run()


class _Placing:
    """One placement. `_covered` are the ids of tensors with a range, of their own or settled by another."""

    def __init__(self, graph: Graph, in_float: Collection[str]) -> None:
        self._graph = graph
        self._in_float = in_float
        self._ranged: set[int] = set()
        self._covered: set[int] = set()

    def run(self) -> Placement:
        graph = self._graph
        for tensor in graph.model.inputs:
            if _is_float(tensor) and self._read_in_int8(tensor):
                self._range(tensor)
        for node in graph.calls:
            for tensor in outputs_of(node):
                if _is_float(tensor):
                    self._visit(node, tensor)
        left = {node.layer.name: describe(node.layer) for node in graph.calls if self._kind(node) == FLOAT}
        return Placement(frozenset(self._ranged), left)

    def _range(self, tensor: Any) -> None:
        self._ranged.add(id(tensor))
        self._covered.add(id(tensor))

    def _visit(self, node: Any, tensor: Any) -> None:
        kind = self._kind(node)
        known = all(id(t) in self._covered for t in node.keras_inputs)
        if kind == FLOAT:
            if id(tensor) in self._graph.shown or self._read_in_int8(tensor):
                self._range(tensor)
        elif kind == KEEPS and not known:
            if self._read_in_int8(tensor) and _is_float(node.keras_inputs[0]):
                self._range(tensor)
        elif kind == KEEPS or (kind == FIXED and known):
            self._covered.add(id(tensor))
        elif kind == KERNEL and activation_of(node.layer) in ("sigmoid", "tanh", "softmax"):
            self._covered.add(id(tensor))  # what goes into the activation has a range
        elif not self._fused(node) and not self._settled_by_concatenation(node):
            self._range(tensor)

    def _kind(self, node: Any) -> str:
        layer = node.layer
        if layer.name in self._in_float:
            return FLOAT
        kind = kind_of(layer)
        if kind == NORM and not self._folds(node):
            return FLOAT
        if kind == OPERATOR and not all(_is_float(tensor) for tensor in node.keras_inputs):
            return FLOAT
        return kind

    def _folds(self, node: Any) -> bool:
        """Whether a BatchNorm alone reads a linear convolution, into which the converter folds it."""
        before = producer(node.keras_inputs[0])
        if before is None or before.layer.name in self._in_float:
            return False
        return bool(folds_into(self._graph, before) is node)

    def _fused(self, node: Any) -> bool:
        """Whether one operator of the .tflite computes this call and the only one that reads it."""
        after = self._graph.only_reader(node)
        if after is None or after.layer.name in self._in_float:
            return False
        if folds_into(self._graph, node) is after:
            return True
        linear = activation_of(node.layer) == "linear"
        return type(node.layer).__name__ in CLIPPING and linear and is_clip(after.layer)

    def _settled_by_concatenation(self, node: Any) -> bool:
        """Whether nothing but a concatenation reads this call: all its inputs have its own output's range."""
        (tensor,) = outputs_of(node)
        readers = self._graph.readers.get(id(tensor), ())
        if len(readers) != 1 or id(tensor) in self._graph.shown:
            return False
        return type(readers[0].layer).__name__ == "Concatenate" and self._kind(readers[0]) == OPERATOR

    def _read_in_int8(self, tensor: Any) -> bool:
        return any(self._kind(node) != FLOAT for node in self._graph.readers.get(id(tensor), ()))


def folds_into(graph: Graph, node: Any) -> Any:
    """The call of a BatchNorm that the converter folds into this call of a convolution; None where there is none."""
    layer, after = node.layer, graph.only_reader(node)
    if type(layer).__name__ not in _FOLDING or activation_of(layer) != "linear" or after is None:
        return None
    norm = after.layer
    folds = kind_of(norm) == NORM and list(norm.axis) == [3] and layer.data_format == "channels_last"
    return after if folds else None


def producer(tensor: Any) -> Any:
    """The call that gives a tensor; None for an input."""
    layer, index, _ = tensor._keras_history
    node = layer._inbound_nodes[index]
    return None if node.is_input else node


def describe(layer: Any) -> str:
    """What a layer left in float is, for people: its class, or the function of one that is just an activation."""
    name = type(layer).__name__
    return (activation_of(layer) or name) if name == "Activation" else name


def _is_float(tensor: Any) -> bool:
    import tensorflow as tf

    return bool(tf.as_dtype(tensor.dtype) == tf.float32)
