"""Building the tf-keras twin of a Keras 3 graph."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edgecompile import keras3_layer
from edgecompile.bridge import graph, operations, translate
from edgecompile.errors import BridgeError, UnsupportedLayerError
from edgecompile.loaders.base import output_names, unique_names


@dataclass(frozen=True)
class Traced:
    """One node of the original and the tensors that stand for its outputs in the new graph (none for the operations
    that compute an implicit mask: tf-keras has no nodes for them)."""

    name: str
    kind: str
    outputs: list[Any]


class Builder:
    """One translation of one model. `traced` lists the nodes in topological order.

    keep: names of nodes, as in `traced`, that stay Keras 3's own though tf-keras has an equal
    """

    def __init__(self, model: Any, keep: Collection[str] = ()) -> None:
        self.model = model
        self._keep_names = keep
        self.traced: list[Traced] = []
        self._names = graph.Names([op.name for op in graph.operations(model)])
        self._last = {id(t._keras_history.operation) for t in graph.graph_of(model).outputs}
        self._layers: dict[int, tuple[Any, str]] = {}  # by id of the original layer, so that shared ones stay shared
        self._kept: dict[int, tuple[Any, str]] = {}  # wrapped layers and their calls, by the original's id

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

        outputs: list[Any]
        unknown = _unsupported(args, kwargs)
        if isinstance(op, keras.layers.Layer):
            if unknown:
                raise unknown
            outputs = self._call_layer(op, parents, node, args, kwargs)
        else:
            try:
                if unknown:
                    raise unknown
                outputs = self._call_operation(op, parents, node, args, kwargs)
            except UnsupportedLayerError as error:
                # Keras 3 records how a mask is computed; tf-keras passes masks on by itself. So an operation is
                # an error only where a layer takes its result.
                outputs = [error] * len(node.outputs)
        made = [] if _unsupported(outputs, {}) else outputs
        self.traced.append(Traced(_path(op, parents), type(op).__name__, made))
        return outputs

    def _call_operation(
        self, op: Any, parents: tuple[str, ...], node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        import tensorflow as tf

        name = self._names.take(op.name, parents)
        outputs, reason = None, None
        if _path(op, parents) not in self._keep_names:
            try:
                outputs = operations.call(op, node, name, args, kwargs)
            except (TypeError, ValueError) as problem:
                reason = problem
        return self._keep(op, name, args, kwargs, reason) if outputs is None else list(tf.nest.flatten(outputs))

    def _call_layer(
        self, op: Any, parents: tuple[str, ...], node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        import tensorflow as tf

        if id(op) in self._kept:
            return self._keep(op, self._kept[id(op)][0].name, args, kwargs)
        first = id(op) not in self._layers
        passed = explicit_masks(node, args, kwargs)
        if first:
            name = self._names.take(op.name, parents)
            # An output keeps its name: it goes to the activation that is taken out of the layer.
            taken_out = translate.composed(op) and id(op) in self._last
            inner = self._names.take(f"{name}_linear") if taken_out else name
            try:
                if _path(op, parents) in self._keep_names:
                    raise UnsupportedLayerError(f"layer {op.name!r}: tf-keras's {type(op).__name__} computes otherwise")
                layer, activation = translate.layer(op, inner)
                result = layer(*args, **call_arguments(op, layer, passed))
                translate.copy_weights(op, layer)
            except (UnsupportedLayerError, BridgeError, TypeError, ValueError) as problem:
                return self._keep(op, name, args, kwargs, problem)
            self._layers[id(op)] = layer, activation
        else:
            layer, activation = self._layers[id(op)]
            result = layer(*args, **call_arguments(op, layer, passed))
        if activation:
            if not (first and id(op) in self._last):
                name = self._names.take(op.name if id(op) in self._last else f"{layer.name}_{activation}")
            if activation in operations.COMPOSED:
                result = operations.COMPOSED[activation](result, name)
            else:
                result = self._keep(translate.activation_layer(op), name, (result,), {})
        return list(tf.nest.flatten(result))

    def _keep(
        self,
        op: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reason: Exception | None = None,
    ) -> list[Any]:
        """The outputs of an operation or layer that stays Keras 3's own, inside of a tf-keras layer.

        reason: why tf-keras's own layer isn't taken
        """
        import tensorflow as tf

        translate.refuse_code(op)
        try:
            call, tensors = keras3_layer.template(args, kwargs)
            if not tensors:
                raise ValueError("it has no tensor among its arguments")
            layer, known = self._kept.get(id(op), (None, call))
            if known != call:
                raise ValueError("it is shared, and called in two ways")
            layer = layer or keras3_layer.wrap(op, call, name)
            self._kept[id(op)] = layer, call
            return list(tf.nest.flatten(layer(tensors[0] if len(tensors) == 1 else tensors)))
        except (TypeError, ValueError, NotImplementedError) as problem:
            because = f"{reason}; " if reason else ""
            raise UnsupportedLayerError(
                f"{op.name!r} ({type(op).__name__}) can't be rebuilt in tf-keras: {because}{problem}",
                hint=translate.CURE,
            ) from problem

    @property
    def kept(self) -> dict[str, str]:
        """The names of the layers that stay Keras 3's own, and their classes there."""
        return {layer.name: layer.kind for layer, _ in self._kept.values()}


def _path(op: Any, parents: tuple[str, ...]) -> str:
    return "/".join((*parents, op.name))


def _unsupported(args: Any, kwargs: dict[str, Any]) -> UnsupportedLayerError | None:
    """The error of an operation that couldn't be translated and whose result is among the arguments."""
    import tensorflow as tf

    found = [value for value in tf.nest.flatten((list(args), kwargs)) if isinstance(value, UnsupportedLayerError)]
    return found[0] if found else None


def explicit_masks(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's keyword arguments without the masks that came along with its inputs, where they do in tf-keras too."""
    import tensorflow as tf
    from keras.src.backend import get_keras_mask

    if all(getattr(tensor, "_keras_mask", None) is None for tensor in tf.nest.flatten((args, kwargs))):
        return kwargs
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
