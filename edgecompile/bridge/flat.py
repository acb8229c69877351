"""Inlining the nested models of a tf-keras model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from edgecompile.bridge.graph import Names
from edgecompile.errors import ModelError
from edgecompile.loaders.base import clean_name, unique_names


def flatten(model: Any) -> Any:
    """See `edgecompile.bridge.flatten`."""
    import tf_keras

    if not _is_graph(model):
        raise ModelError(
            f"model {model.name!r} ({type(model).__name__}) is neither functional nor a built Sequential",
            hint="write it with the functional API to train it, or use a recipe without training",
        )
    if not isinstance(model, tf_keras.Sequential) and not any(_is_graph(layer) for layer in model.layers):
        return model
    return _Copy(model).run()


def bypass(model: Any, names: Collection[str]) -> Any:
    """See `edgecompile.bridge.bypass`."""
    return _Copy(model, names).run()


def _is_graph(layer: Any) -> bool:
    import tf_keras
    from tf_keras.src.engine.functional import Functional

    if isinstance(layer, tf_keras.Sequential):
        return bool(type(layer).call is tf_keras.Sequential.call and layer._graph_initialized)
    return isinstance(layer, Functional) and type(layer).call is Functional.call


class _Copy:
    """One copy of one model: layers are cloned, since a name can only be given to a new one."""

    def __init__(self, model: Any, without: Collection[str] = ()) -> None:
        self._model = model
        self._without = without
        self._names = Names([layer.name for layer in model.layers])
        self._layers: dict[int, Any] = {}

    def run(self) -> Any:
        import tf_keras

        inputs = []
        for tensor, name in zip(self._model.inputs, unique_names(self._model.input_names), strict=True):
            self._names.take(name)
            inputs.append(tf_keras.Input(tensor.shape[1:], batch_size=tensor.shape[0], dtype=tensor.dtype, name=name))
        outputs = self._walk(self._model, inputs, ())
        names = unique_names(self._model.output_names)
        name = clean_name(self._model.name)
        made = tf_keras.Model(inputs, outputs, name=name)
        if list(made.output_names) != names:
            outputs = [
                tensor if actual == wanted else tf_keras.layers.Activation("linear", name=wanted)(tensor)
                for tensor, actual, wanted in zip(outputs, made.output_names, names, strict=True)
            ]
            made = tf_keras.Model(inputs, outputs, name=name)
        return made

    def _walk(self, model: Any, inputs: Iterable[Any], parents: tuple[str, ...]) -> list[Any]:
        import tensorflow as tf
        import tf_keras

        values = {id(tensor): value for tensor, value in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = tf.nest.map_structure(
                    lambda v: values.get(id(v), v), (list(node.call_args), dict(node.call_kwargs))
                )
                layer = node.layer
                if isinstance(layer, tf_keras.layers.InputLayer) or layer.name in self._without:
                    outputs = tf.nest.flatten(args)
                elif _is_graph(layer):
                    tensors = args[0] if args else kwargs["inputs"]
                    outputs = self._walk(layer, tf.nest.flatten(tensors), (*parents, layer.name))
                else:
                    outputs = tf.nest.flatten(self._call(layer, parents, args, kwargs))
                for tensor, value in zip(tf.nest.flatten(node.outputs), outputs, strict=True):
                    values[id(tensor)] = value
        return [values[id(tensor)] for tensor in model.outputs]

    def _call(self, layer: Any, parents: tuple[str, ...], args: list[Any], kwargs: dict[str, Any]) -> Any:
        first = id(layer) not in self._layers
        if first:
            name = self._names.take(layer.name, parents)
            self._layers[id(layer)] = type(layer).from_config({**layer.get_config(), "name": name})
        copy = self._layers[id(layer)]
        result = copy(*args, **kwargs)
        if first:
            copy.set_weights(layer.get_weights())
        return result
