"""From Keras 3 to tf-keras, the only Keras that TF-MOT trains.

The graph is rebuilt layer by layer with nested models inlined (TF-MOT refuses nested models), weights are copied, and
the outputs on real samples are compared with the original's. `flatten` inlines the nested models of a tf-keras model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgecompile.bridge import compare, flat, graph
from edgecompile.bridge.build import Builder
from edgecompile.errors import ModelError

_MOST_KEPT = 8  # layers that tf-keras computes otherwise; a model of which it has more right is not trained

__all__ = ["BridgeResult", "bypass", "flatten", "to_tf_keras"]


@dataclass(frozen=True)
class BridgeResult:
    """model: a flat functional tf_keras.Model. max_diff: the largest |difference| between its outputs and the
    original's on the sample, as a share of that output's range. kept: the names of the layers that tf-keras has no
    equal of, which run Keras 3's own code, and their classes there."""

    model: Any
    max_diff: float
    kept: Mapping[str, str]


def to_tf_keras(model: Any, sample: Mapping[str, npt.NDArray[Any]]) -> BridgeResult:
    """Rebuild a functional or Sequential keras.Model as a flat functional tf_keras.Model with the same weights.

    sample: real samples by input name, [n, ...] each, in the names of the model's signature; n >= 1.
    Layers, inputs and outputs keep their names and order. An inlined layer keeps its own name where that is free,
    else it gets its parent's before it.

    A layer or operation that tf-keras has no equal of, or computes otherwise, stays Keras 3's own (keras3_layer.py).
    UnsupportedLayerError: one that can't, named: it carries code, or can't be written down.
    BridgeError: outputs differ all the same by more than 1e-5 of their range, and by more than the last bits of the
    weights make up for; names the first layer that differs.
    """
    if not graph.is_graph(model):
        raise ModelError(
            f"model {model.name!r} ({type(model).__name__}) is neither functional nor Sequential",
            hint="write it with the functional API to train it, or use a recipe without training",
        )
    arrays = graph.ordered_sample(model, sample)
    keep: set[str] = set()
    allowed = compare.TOLERANCE
    while True:
        builder = Builder(model, keep)
        rebuilt = builder.build()
        max_diff = compare.largest_difference(model, rebuilt, arrays)
        if compare.TOLERANCE < max_diff < compare.MOST and not keep:
            allowed = max(allowed, min(compare.MOST, compare.ROUNDINGS * compare.rounding(model, arrays)))
        if max_diff <= allowed:
            return BridgeResult(rebuilt, max_diff, builder.kept)
        node, difference = compare.first_difference(model, rebuilt, builder.traced, arrays)
        if node.name in keep or len(keep) == _MOST_KEPT:
            raise compare.difference_error(node, difference, max_diff, allowed)
        keep.add(node.name)


def flatten(model: Any) -> Any:
    """A flat functional tf_keras.Model that computes what `model` does: nested models inlined, Sequential made
    functional, weights copied, names and order of inputs and outputs kept. `model` itself where it is flat."""
    return flat.flatten(model)


def bypass(model: Any, names: Collection[str]) -> Any:
    """A flat copy without the layers of these names, each of one input: what they were given is what they give.
    Inputs and outputs keep their names and order."""
    return flat.bypass(model, names)
