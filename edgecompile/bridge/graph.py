"""Walking a Keras graph in topological order, nested models inlined, with any kind of value flowing through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.errors import DataError
from edgecompile.loaders.base import clean_name, unique_names

Apply = Callable[[Any, tuple[str, ...], Any, tuple[Any, ...], dict[str, Any]], list[Any]]


def is_graph(layer: Any) -> bool:
    """Whether a Keras 3 layer is a functional or built Sequential model whose call is its graph."""
    import keras
    from keras.src.models.functional import Functional

    if isinstance(layer, keras.Sequential):
        return type(layer).call is keras.Sequential.call and layer._functional is not None
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def graph_of(model: Any) -> Any:
    """The Function that holds a Keras 3 model's nodes."""
    inner = getattr(model, "_functional", None)
    return model if inner is None else inner


def run(model: Any, inputs: Iterable[Any], apply: Apply, parents: tuple[str, ...] = ()) -> list[Any]:
    """The outputs of a Keras 3 model, `apply(operation, parents, node, args, kwargs)` giving each node's outputs.

    parents: the names of the nested models that the operation is in, outermost first.
    """
    import keras

    function = graph_of(model)
    values = {id(tensor): value for tensor, value in zip(function.inputs, inputs, strict=True)}
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if not node.operation or node.is_input or any(id(t) not in values for t in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(values)
            operation = node.operation
            if is_graph(operation):
                tensors = keras.tree.flatten(args[0] if args else kwargs["inputs"])
                outputs = run(operation, tensors, apply, (*parents, operation.name))
            else:
                outputs = apply(operation, parents, node, tuple(args), dict(kwargs))
            for tensor, value in zip(node.outputs, outputs, strict=True):
                values[id(tensor)] = value
    return [values[id(tensor)] for tensor in function.outputs]


def operations(model: Any) -> list[Any]:
    """The operations of the outer graph: their names are taken before those of nested models' layers."""
    return list(graph_of(model)._operations)


def input_names(model: Any) -> list[str]:
    """The names of a Keras 3 or tf-keras model's inputs, as its signature has them."""
    return unique_names(getattr(model, "input_names", None) or [tensor.name for tensor in model.inputs])


def ordered_sample(model: Any, sample: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """The sample's arrays in the order and dtypes of the model's inputs."""
    import tensorflow as tf

    names = input_names(model)
    if set(sample) == {""} and len(names) == 1:
        sample = {names[0]: sample[""]}
    if set(sample) != set(names):
        raise DataError(f"the sample has inputs {sorted(sample)}, the model expects {names}")
    return [
        np.asarray(sample[name]).astype(tf.as_dtype(tensor.dtype).as_numpy_dtype, copy=False)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]


class Names:
    """Names for the layers of a flat model, by their place in the original alone."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._taken: set[str] = set()
        self._reserved = {clean_name(name) for name in reserved}

    def take(self, name: str, parents: tuple[str, ...] = ()) -> str:
        """The layer's own name, with its parents' before it if it is nested and its name is not free."""
        free = self._taken if not parents else self._taken | self._reserved
        base = clean_name(name)
        depth = len(parents)
        while base in free and depth:
            depth -= 1
            base = clean_name("_".join((*parents[depth:], name)))
        chosen, count = base, 0
        while chosen in free:
            count += 1
            chosen = f"{base}_{count}"
        self._taken.add(chosen)
        return chosen
