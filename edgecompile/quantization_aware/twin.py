"""The quantization-aware twin of a flat tf-keras model: the same graph, with rounding where the .tflite rounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.bridge.graph import Names
from edgecompile.errors import ConversionError
from edgecompile.quantization_aware.graph import Graph, outputs_of
from edgecompile.quantization_aware.kinds import KERNEL, SWISH, activation_of, kind_of
from edgecompile.quantization_aware.layers import range_of_activation, range_of_input, rounded_kernel
from edgecompile.quantization_aware.placement import CLIPPING, Placement, describe, place
from edgecompile.stages.base import Context
from edgecompile.stages.trainable import trainable_model
from edgecompile.ties import Ties

_IN_KERNEL = ("linear", "relu", "relu6")  # activations that TFLite's kernels apply by themselves


@dataclass(frozen=True)
class Twin:
    """model: the twin. left: by name, the layers that it has no int8 operator for, and what they are.

    kernels: by the name of the layer in the model that the twin was made of, its rounded kernel's float variable.
    floats: the same for all trainable weights of the layers in `left`.
    origins: by the name of a layer that computes in the twin, (that of the layer it was made for, what it is).
    """

    model: Any
    left: dict[str, str]
    kernels: dict[str, Any]
    floats: dict[str, list[Any]]
    origins: dict[str, tuple[str, str]]


def quantization_aware(model: Any, ties: Mapping[str, Ties] | None = None, in_float: Collection[str] = ()) -> Twin:
    """The twin of a flat tf-keras model.

    ties: by layer name, kernels of which weights have to stay equal, or zero, while the twin trains.
    in_float: names of layers that stay in float whatever they are.
    """
    graph = Graph.of(model)
    builder = _Builder(graph, place(graph, in_float), ties or {})
    return builder.build()


def load_quantization_aware(artifact: Any, ctx: Context) -> Any:
    """The trained twin again: rebuilt from its base, since TF-MOT's own saving loses what holds it together."""
    model = quantization_aware(trainable_model(artifact, ctx), in_float=artifact.meta["in_float"]).model
    with np.load(artifact.files["weights"]) as saved:
        if len(saved.files) != len(model.variables):
            raise ConversionError(
                f"the quantization-aware model has {len(model.variables)} variables, its file {len(saved.files)}"
            )
        for i, variable in enumerate(model.variables):
            variable.assign(saved[f"arr_{i}"])
    return model


class _Builder:
    """One twin of one model."""

    def __init__(self, graph: Graph, placement: Placement, ties: Mapping[str, Ties]) -> None:
        self._graph = graph
        self._placement = placement
        self._ties = ties
        self._names = Names(())
        for layer in graph.model.layers:
            self._names.take(layer.name)
        self._origins = {layer.name: (str(layer.name), describe(layer)) for layer in graph.model.layers}
        self._made: dict[int, Any] = {}  # by id of the original layer, so that shared ones stay shared

    def build(self) -> Twin:
        model = self._graph.rebuild(self._call, self._enter)
        wrapped = {layer.layer.name: layer._weight_vars[0][0] for layer in model.layers if _is_wrapper(layer)}
        floats = {name: list(model.get_layer(name).trainable_weights) for name in self._placement.left}
        return Twin(model, dict(self._placement.left), wrapped, floats, self._origins)

    def _enter(self, old: Any, new: Any) -> Any:
        if id(old) not in self._placement.ranged:
            return new
        return range_of_input(self._names.take(f"{new.node.layer.name}_range"))(new)

    def _call(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        import tensorflow as tf

        layer = node.layer
        is_kernel = kind_of(layer) == KERNEL and layer.name not in self._placement.left
        if is_kernel:
            result = self._kernel(node, args, kwargs)
        elif layer.name not in self._placement.left and _is_swish(layer):
            result = self._activate(layer, args[0])
        else:
            result = self._copy(node)(*args, **kwargs)
        results = tf.nest.flatten(result)
        return [
            self._range(layer, new) if id(old) in self._placement.ranged else new
            for old, new in zip(outputs_of(node), results, strict=True)
        ]

    def _range(self, layer: Any, tensor: Any) -> Any:
        return range_of_activation(self._names.take(f"{layer.name}_range"))(tensor)

    def _copy(self, node: Any) -> Any:
        layer = node.layer
        if id(layer) not in self._made:
            copy = type(layer).from_config(layer.get_config())
            for module in (copy, *copy.submodules):
                if hasattr(module, "_could_use_gpu_kernel"):
                    # As a loop: the converter makes an operator of its own of an LSTM, and refuses ranges around it.
                    module._could_use_gpu_kernel = False
            self._made[id(layer)] = _Copied(copy, layer)
        return self._made[id(layer)]

    def _kernel(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        layer = node.layer
        inside = _IN_KERNEL if type(layer).__name__ in CLIPPING else ("linear",)
        outside = activation_of(layer) not in inside
        if id(layer) not in self._made:
            config = {**layer.get_config(), **({"activation": "linear"} if outside else {})}
            copy = type(layer).from_config(config)
            copy.build(node.keras_inputs[0].shape)
            copy.set_weights(layer.get_weights())
            self._made[id(layer)] = rounded_kernel(copy, self._ties.get(layer.name))
        result = self._made[id(layer)](*args, **kwargs)
        return self._activate(layer, self._range(layer, result)) if outside else result

    def _activate(self, layer: Any, tensor: Any) -> Any:
        """The layer's activation as a layer of its own; swish as operators that TFLite has in int8."""
        from tf_keras import layers

        if _is_swish(layer):
            gate = layers.Activation("sigmoid", name=self._name(layer, "sigmoid"))(tensor)
            return layers.Multiply(name=self._name(layer, "swish"))([tensor, gate])
        return layers.Activation(layer.activation, name=self._name(layer, "activation"))(tensor)

    def _name(self, layer: Any, what: str) -> str:
        """A name for a further layer that computes a part of this one."""
        name = self._names.take(f"{layer.name}_{what}")
        inside = f"{activation_of(layer) or 'activation'} in {type(layer).__name__}"
        self._origins[name] = (str(layer.name), describe(layer) if type(layer).__name__ == "Activation" else inside)
        return name


class _Copied:
    """A layer's copy, which gets the original's weights with its first call."""

    def __init__(self, copy: Any, original: Any) -> None:
        self._copy, self._original = copy, original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._copy(*args, **kwargs)
        if self._original is not None:
            self._copy.set_weights(self._original.get_weights())
            self._original = None
        return result


def _is_swish(layer: Any) -> bool:
    return activation_of(layer) in SWISH


def _is_wrapper(layer: Any) -> bool:
    return bool(getattr(layer, "_weight_vars", None))
