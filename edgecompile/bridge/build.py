"""Building the tf-keras twin of a Keras 3 graph."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from edgecompile.bridge import graph, operations, translate
from edgecompile.errors import UnsupportedLayerError
from edgecompile.loaders.base import output_names, unique_names


@dataclass(frozen=True)
class Traced:
    """One node of the original and the tensors that stand for its outputs in the new graph (none for the operations
    that compute an implicit mask: tf-keras has no nodes for them)."""

    name: str
    kind: str
    outputs: list[Any]


class Builder:
    """One translation of one model. `traced` lists the nodes in topological order."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.traced: list[Traced] = []
        self._names = graph.Names([op.name for op in graph.operations(model)])
        self._last = {id(t._keras_history.operation) for t in graph.graph_of(model).outputs}
        self._layers: dict[int, tuple[Any, str]] = {}  # by id of the original layer, so that shared ones stay shared

    def build(self) -> Any:
        """The new tf_keras.Model."""
        import tensorflow as tf
        import tf_keras

        inputs = []
        for tensor, name in zip(self.model.inputs, graph.input_names(self.model), strict=True):
            self._names.take(name)
            shape = tuple(tensor.shape)
            inputs.append(
                tf_keras.Input(shape[1:], batch_size=shape[0], dtype=tf.as_dtype(tensor.dtype).name, name=name)
            )
        outputs = graph.run(self.model, inputs, self._apply)
        unknown = _unsupported(outputs, {})
        if unknown:
            raise unknown
        names = unique_names(output_names(self.model))
        rebuilt = tf_keras.Model(inputs, outputs, name=translate.model_name(self.model))
        if list(rebuilt.output_names) != names:
            # An output of a nested model bears that model's name, which no layer has after inlining.
            outputs = [
                tensor if actual == name else tf_keras.layers.Activation("linear", name=name)(tensor)
                for tensor, actual, name in zip(outputs, rebuilt.output_names, names, strict=True)
            ]
            rebuilt = tf_keras.Model(inputs, outputs, name=translate.model_name(self.model))
        return rebuilt

    def _apply(
        self, op: Any, parents: tuple[str, ...], node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        import keras
        import tensorflow as tf

        outputs: list[Any]
        if isinstance(op, keras.layers.Layer):
            outputs = self._call_layer(op, parents, args, explicit_masks(node, kwargs))
        else:
            unknown = _unsupported(args, kwargs)
            try:
                if unknown:
                    raise unknown
                outputs = tf.nest.flatten(operations.call(op, node, self._names.take(op.name, parents), args, kwargs))
            except UnsupportedLayerError as error:
                # Keras 3 records how a mask is computed; tf-keras passes masks on by itself. So an operation is
                # an error only where a layer takes its result.
                outputs = [error] * len(node.outputs)
        made = [] if _unsupported(outputs, {}) else outputs
        self.traced.append(Traced("/".join((*parents, op.name)), type(op).__name__, made))
        return outputs

    def _call_layer(
        self, op: Any, parents: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        import tensorflow as tf

        unknown = _unsupported(args, kwargs)
        if unknown:
            raise unknown
        first = id(op) not in self._layers
        if first:
            name = self._names.take(op.name, parents)
            # An output keeps its name: it goes to the activation that is taken out of the layer.
            taken_out = translate.composed(op) and id(op) in self._last
            self._layers[id(op)] = translate.layer(op, self._names.take(f"{name}_linear") if taken_out else name)
        layer, activation = self._layers[id(op)]
        result = layer(*args, **call_arguments(op, layer, kwargs))
        if first:
            translate.copy_weights(op, layer)
        if activation:
            if not (first and id(op) in self._last):
                name = self._names.take(op.name if id(op) in self._last else f"{layer.name}_{activation}")
            result = operations.COMPOSED[activation](result, name)
        return list(tf.nest.flatten(result))


def _unsupported(args: Any, kwargs: dict[str, Any]) -> UnsupportedLayerError | None:
    """The error of an operation that couldn't be translated and whose result is among the arguments."""
    import tensorflow as tf

    found = [value for value in tf.nest.flatten((list(args), kwargs)) if isinstance(value, UnsupportedLayerError)]
    return found[0] if found else None


def explicit_masks(node: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's keyword arguments without the masks that came along with its inputs."""
    from keras.src.backend import get_keras_mask

    implicit = {id(get_keras_mask(tensor)) for tensor in node.input_tensors} - {id(None)}
    kept = {}
    for key, value in kwargs.items():
        given = node.arguments.kwargs.get(key)
        parts = given if isinstance(given, (list, tuple)) else [given]
        if not any(id(part) in implicit for part in parts):
            kept[key] = value
    return kept


def call_arguments(op: Any, layer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a layer's call that tf-keras needs: Keras 3 records all, with their defaults.

    `training` is dropped too: in inference Keras 3 overrides what was recorded.
    """
    defaults = inspect.signature(op.call).parameters
    accepted = inspect.signature(layer.call).parameters
    kept = {}
    for key, value in kwargs.items():
        if value is None or key == "training":
            continue
        if key in accepted:
            kept[key] = value
        elif key not in defaults or defaults[key].default is not value:
            raise UnsupportedLayerError(
                f"layer {op.name!r} ({type(op).__name__}) is called with {key}={value!r}, which tf-keras can't take",
                hint="call it without, or use a recipe without training",
            )
    return kept
