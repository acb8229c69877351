"""A flat tf-keras graph as calls of layers in topological order, and the same graph made anew, call by call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgecompile.loaders.base import clean_name

# (the call in the old graph, its arguments in the new graph) -> its outputs in the new graph
Call = Callable[[Any, list[Any], dict[str, Any]], Any]


@dataclass(frozen=True)
class Graph:
    """calls: nodes of tf-keras in topological order, without inputs. readers: by id of a tensor, the calls that take
    it. shown: ids of the tensors that are outputs of the model."""

    model: Any
    calls: tuple[Any, ...]
    readers: dict[int, tuple[Any, ...]]
    shown: frozenset[int]

    @staticmethod
    def of(model: Any) -> Graph:
        by_depth = model._nodes_by_depth
        calls = tuple(node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input)
        readers: dict[int, tuple[Any, ...]] = {}
        for node in calls:
            for key in {id(tensor): None for tensor in node.keras_inputs}:
                readers[key] = (*readers.get(key, ()), node)
        return Graph(model, calls, readers, frozenset(id(tensor) for tensor in model.outputs))

    def only_reader(self, node: Any) -> Any:
        """The call that alone reads the only output of this one; None where there are more or none, or the output is
        the model's."""
        outputs = outputs_of(node)
        if len(outputs) != 1 or id(outputs[0]) in self.shown:
            return None
        readers = self.readers.get(id(outputs[0]), ())
        return readers[0] if len(readers) == 1 and len(readers[0].keras_inputs) == 1 else None

    def rebuild(self, call: Call, enter: Callable[[Any, Any], Any] = lambda _, new: new) -> Any:
        """A functional model of the same inputs, with `call`'s outputs in place of each call's own.

        enter: what readers get of an input, of (the old tensor, the new one).
        """
        import tensorflow as tf
        import tf_keras

        inputs, values = [], {}
        for tensor, name in zip(self.model.inputs, self.model.input_names, strict=True):
            made = tf_keras.Input(tensor.shape[1:], batch_size=tensor.shape[0], dtype=tensor.dtype, name=name)
            inputs.append(made)
            values[id(tensor)] = enter(tensor, made)
        for node in self.calls:
            args, kwargs = tf.nest.map_structure(
                lambda v: values.get(id(v), v), (list(node.call_args), dict(node.call_kwargs))
            )
            results = tf.nest.flatten(call(node, args, kwargs))
            values.update({id(old): new for old, new in zip(outputs_of(node), results, strict=True)})
        return tf_keras.Model(
            inputs, [values[id(tensor)] for tensor in self.model.outputs], name=clean_name(self.model.name)
        )


def outputs_of(node: Any) -> list[Any]:
    """The tensors that a call gives."""
    import tensorflow as tf

    return list(tf.nest.flatten(node.outputs))
