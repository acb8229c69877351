"""A tf-keras layer that runs one Keras 3 operation or layer: what tf-keras has no equal of, in a model it can train.

TF-MOT trains tf-keras models alone. An operation of keras.ops, or a layer that only Keras 3 has, is kept as it is
inside of one: its own code computes it (Keras's TensorFlow backend), its weights are weights of the tf-keras layer.
TF-MOT knows no scheme for it, so quantization-aware training leaves it in float.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PACKAGE, NAME = "edgecompile", "Keras3Layer"
REGISTERED = f"{PACKAGE}>{NAME}"  # how configurations call the class
_SLOT = "__input__"  # {_SLOT: i} stands for the i-th tensor in a call's arguments

_own_classes: dict[str, Any] = {}  # the user's classes that were wrapped, which configurations give by name only


def template(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """(a call's arguments as JSON, with places for tensors; the tf-keras tensors among them, in order).

    TypeError or ValueError where Keras can't serialize an argument.
    """
    import keras
    import tensorflow as tf

    tensors: list[Any] = []

    def slot(value: Any) -> Any:
        if not hasattr(value, "_keras_history"):
            return value
        tensors.append(value)
        return {_SLOT: len(tensors) - 1}

    call = tf.nest.map_structure(slot, [list(args), dict(kwargs)])
    return json.dumps(keras.saving.serialize_keras_object(call)), tensors


def wrap(operation: Any, call: str, name: str) -> Any:
    """A new tf-keras layer that calls a Keras 3 operation, or a built layer, whose weights are copied.

    call: what `template` made of the arguments
    TypeError or ValueError where Keras can't serialize the operation.
    """
    import keras

    _remember(operation)
    layer = layer_class()(
        json.dumps(keras.saving.serialize_keras_object(operation)),
        call,
        name=name,
        trainable=getattr(operation, "trainable", True),
    )
    layer.build(None)
    layer.set_weights([np.asarray(variable) for variable in _variables(operation)])
    return layer


def _remember(operation: Any) -> None:
    """Keep a class of the user's: clones of a layer are made of its configuration alone."""
    import keras

    cls = type(operation)
    if not cls.__module__.startswith("keras."):
        _own_classes.update({cls.__name__: cls, keras.saving.get_registered_name(cls): cls})


def serialized(node: Mapping[str, Any]) -> list[str]:
    """The JSON texts of what Keras 3 would make of a wrapping layer's configuration."""
    config = node.get("config")
    config = config if isinstance(config, Mapping) else {}
    return [str(config.get(key, "null")) for key in ("operation", "call")]


@functools.cache
def layer_class() -> Any:
    """The class, registered in tf-keras. Every process that loads a tf-keras file has to call this before."""
    import keras
    import tensorflow as tf
    import tf_keras

    @tf_keras.saving.register_keras_serializable(PACKAGE, NAME)
    class Keras3Layer(tf_keras.layers.Layer):  # type: ignore[misc]
        """Calls a Keras 3 operation or layer on its inputs.

        operation: its configuration, as JSON; call: [args, kwargs] of the call, as JSON
        """

        def __init__(self, operation: str, call: str, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, "autocast": False})
            own = {**_own_classes, **keras.saving.get_custom_objects()}
            self._config = {"operation": operation, "call": call}
            self._operation = keras.saving.deserialize_keras_object(json.loads(operation), custom_objects=own)
            _remember(self._operation)
            self._arguments = keras.saving.deserialize_keras_object(json.loads(call))
            self.supports_masking = True  # a mask it takes is one of its inputs

        @property
        def kind(self) -> str:
            """The class of what it runs."""
            return type(self._operation).__name__

        def build(self, input_shape: Any) -> None:
            if not self.built:
                self._held = [
                    self.add_weight(
                        name=variable.path.rpartition("/")[2],
                        shape=variable.shape,
                        dtype=variable.dtype,
                        initializer="zeros",
                        trainable=variable.trainable and self.trainable,
                    )
                    for variable in _variables(self._operation)
                ]
            super().build(input_shape)

        def call(self, inputs: Any, training: Any = None) -> Any:
            # AutoGraph would rewrite Keras's own code too.
            return tf.autograph.experimental.do_not_convert(self._run)(inputs, training)

        def _run(self, inputs: Any, training: Any) -> Any:
            tensors = tf.nest.flatten(inputs)
            args, kwargs = _filled(self._arguments, tensors)
            if not isinstance(self._operation, keras.Layer):
                return self._operation(*args, **kwargs)
            kwargs.pop("training", None)
            if "training" in inspect.signature(self._operation.call).parameters:
                kwargs["training"] = bool(training)
            count = len(self._operation.trainable_variables)
            outputs, state, losses = self._operation.stateless_call(
                self._held[:count], self._held[count:], *args, return_losses=True, **kwargs
            )
            if training:
                for variable, value in zip(self._held[count:], state, strict=True):
                    variable.assign(value)
            for loss in losses:
                self.add_loss(loss)
            return outputs

        def compute_mask(self, inputs: Any, mask: Any = None) -> None:
            del inputs, mask  # whoever takes the mask of its output is given it

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), **self._config}

    return Keras3Layer


def _variables(operation: Any) -> list[Any]:
    """The variables of a Keras 3 layer in the order that its stateless call takes them; none of an operation."""
    return [*getattr(operation, "trainable_variables", ()), *getattr(operation, "non_trainable_variables", ())]


def _filled(value: Any, tensors: Sequence[Any]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_SLOT}:
            return tensors[value[_SLOT]]
        return {key: _filled(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_filled(item, tensors) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
