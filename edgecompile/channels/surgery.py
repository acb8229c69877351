"""A smaller ordinary Keras model: fewer filters and units, weights sliced, the same layers in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.channels.coupling import calls
from edgecompile.channels.groups import Channels, dependency_groups
from edgecompile.channels.rules import Widths, rule_of


def apply(model: Any, kept: Mapping[str, Sequence[int]]) -> Any:
    """`model` (flat functional tf-keras) with only the channels `kept` of each group; groups not named stay whole.

    The result computes what `model` does with the other channels at zero in front of every layer that reads them.
    Layers, inputs and outputs keep their names and order. ValueError as `Channels.keep`.
    """
    channels = dependency_groups(model)
    return _Copy(channels, channels.keep(kept)).run()


class _Copy:
    def __init__(self, channels: Channels, keep: npt.NDArray[np.bool_]) -> None:
        self._channels = channels
        self._keep = keep
        self._layers: dict[str, Any] = {}

    def run(self) -> Any:
        import tensorflow as tf
        import tf_keras

        model = self._channels.model
        inputs = [
            tf_keras.Input(t.shape[1:], batch_size=t.shape[0], dtype=t.dtype, name=name)
            for t, name in zip(model.inputs, model.input_names, strict=True)
        ]
        values = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
        for call in calls(model):
            args, kwargs = tf.nest.map_structure(
                lambda v: values.get(id(v), v), (list(call.node.call_args), dict(call.node.call_kwargs))
            )
            first = call.layer.name not in self._layers
            if first:
                self._layers[call.layer.name] = self._smaller(call.layer, call.inputs, call.outputs)
            copy = self._layers[call.layer.name]
            made = tf.nest.flatten(copy(*args, **kwargs))
            if first:
                copy.set_weights(self._weights(call.layer))
            for old, new in zip(call.outputs, made, strict=True):
                values[id(old)] = new
        return tf_keras.Model(inputs, [values[id(t)] for t in model.outputs], name=model.name)

    def _smaller(self, layer: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        config = layer.get_config()
        rule = rule_of(layer)
        if rule is not None and rule.config is not None:
            taken, made = (self._keep[self._channels.tensors[id(t)]] for t in (inputs[0], outputs[0]))
            if not made.all():  # a layer left whole keeps its settings as they were written
                config |= rule.config(layer, Widths(int(taken.sum()), int(made.sum())))
        return type(layer).from_config(config)

    def _weights(self, layer: Any) -> list[npt.NDArray[Any]]:
        arrays = [weight.numpy() for weight in layer.weights]
        for part in self._channels.slices.get(layer.name, ()):
            arrays[part.position] = np.compress(self._keep[part.sets], arrays[part.position], axis=part.axis)
        return arrays
