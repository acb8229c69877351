"""What the layers of a tf-keras model cost: multiply-accumulates of one inference, and parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgecompile.errors import ModelError


@dataclass(frozen=True)
class Cost:
    """`macs`: multiply-accumulates for one sample; `parameters`: weights and biases, BatchNorm's statistics too."""

    macs: int
    parameters: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.parameters + other.parameters)


def model_cost(model: Any) -> Cost:
    """The sum over the layers of a flat tf-keras model. Errors: ModelError where an input's size is free."""
    return sum(layer_costs(model).values(), Cost(0, 0))


def layer_costs(model: Any) -> dict[str, Cost]:
    """By layer name. A layer that is used n times computes n times and is stored once."""
    return {layer.name: Cost(_macs(layer), layer.count_params()) for layer in model.layers}


def _macs(layer: Any) -> int:
    import tf_keras

    kinds = tf_keras.layers
    if isinstance(layer, kinds.SeparableConv2D):
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        return sum(
            _positions(layer, i) * (math.prod(depthwise.shape) + math.prod(pointwise.shape)) for i in _uses(layer)
        )
    if isinstance(layer, kinds.Conv2DTranspose):  # each input position meets the whole kernel
        return sum(_size(layer.get_input_shape_at(i), layer) * math.prod(layer.kernel.shape) for i in _uses(layer))
    if isinstance(layer, kinds.DepthwiseConv2D):
        return sum(_positions(layer, i) * math.prod(layer.depthwise_kernel.shape) for i in _uses(layer))
    if isinstance(layer, kinds.Conv1D | kinds.Conv2D | kinds.Conv3D):
        # a grouped kernel holds input channels / groups: its size already is what a position costs
        return sum(_positions(layer, i) * math.prod(layer.kernel.shape) for i in _uses(layer))
    if isinstance(layer, kinds.Dense):
        return sum(_positions(layer, i) * math.prod(layer.kernel.shape) for i in _uses(layer))
    return 0


def _uses(layer: Any) -> range:
    return range(len(layer.inbound_nodes))


def _positions(layer: Any, use: int) -> int:
    """At how many places the kernel is applied: all output dimensions but the batch's and the channels'."""
    return _size(layer.get_output_shape_at(use), layer)


def _size(shape: tuple[int | None, ...], layer: Any) -> int:
    inner = shape[1:-1]
    if any(d is None for d in inner):
        raise ModelError(
            f"layer {layer.name!r} has the free size {list(shape)}, so its cost is unknown", hint="give --input-shape"
        )
    return math.prod(d for d in inner if d is not None)
