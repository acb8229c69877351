"""How each type of layer relates its channels, which slices of its weights belong to them, and what its
configuration says of them. A new type is one entry in `rules()`; a type without one keeps all its channels.

All tensors are channels-last: the channels are the last axis.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.channels.coupling import Coupling, Ids, Use

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Slice:
    """Axis `axis` of the weight in the layer's attribute `weight` runs over the channels of the layer's input or
    output (`of`), `repeat` indices for each.

    kernel: the weight is multiplied with each position, so its size is what a position costs.
    ends: along this axis the channel is consumed: nothing behind this layer has it.
    """

    weight: str
    axis: int
    of: str
    repeat: int = 1
    kernel: bool = False
    ends: bool = False


@dataclass(frozen=True)
class Widths:
    """How many channels the first input and the output of a layer keep."""

    inputs: int
    output: int


@dataclass(frozen=True)
class Rule:
    """relate: the output's channels from the inputs', or None where this layer can't be pruned around.
    slices: of its weights. config: the settings that change with its widths, if any do."""

    relate: Callable[[Coupling, Use], Ids | None]
    slices: Callable[[Any], tuple[Slice, ...]] = lambda _: ()
    config: Callable[[Any, Widths], dict[str, Any]] | None = None


def rule_of(layer: Any) -> Rule | None:
    """The rule of exactly this layer's type: a subclass may compute something else."""
    return rules().get(type(layer))


@functools.cache
def rules() -> dict[type, Rule]:
    from tf_keras import layers as k
    from tf_keras.src.layers.core.tf_op_layer import TFOpLambda

    same = Rule(_same)
    pooling = Rule(_channels_last)
    merge = Rule(_merge)
    table: dict[type, Rule] = {
        k.Dense: Rule(_mixes, _kernel_and_bias, _units),
        k.DepthwiseConv2D: Rule(_depthwise, _depthwise_slices),
        k.SeparableConv2D: Rule(_mixes, _separable_slices, _filters),
        k.BatchNormalization: Rule(_batch_norm, _batch_norm_slices),
        k.PReLU: Rule(_same, _prelu_slices),
        k.Activation: Rule(_activation),
        k.Reshape: Rule(_reshape, config=_target_shape),
        k.Flatten: Rule(_reshape_last),
        k.Permute: Rule(_permute),
        k.Concatenate: Rule(_concatenate),
        k.Rescaling: Rule(_rescaling),
        TFOpLambda: Rule(_operation),
    }
    convolutions = (k.Conv1D, k.Conv2D, k.Conv3D)
    table |= dict.fromkeys(convolutions, Rule(_mixes, _kernel_and_bias, _filters))
    table[k.Conv2DTranspose] = Rule(_mixes, _transposed_slices, _filters)
    elementwise = (k.ReLU, k.LeakyReLU, k.ELU, k.ThresholdedReLU, k.Dropout, k.GaussianDropout, k.GaussianNoise)
    table |= dict.fromkeys((*elementwise, k.AlphaDropout, k.ActivityRegularization, k.SpatialDropout1D), same)
    spatial = (
        k.MaxPooling1D, k.MaxPooling2D, k.MaxPooling3D, k.AveragePooling1D, k.AveragePooling2D, k.AveragePooling3D,
        k.GlobalMaxPooling1D, k.GlobalMaxPooling2D, k.GlobalAveragePooling1D, k.GlobalAveragePooling2D,
        k.GlobalMaxPooling3D, k.GlobalAveragePooling3D, k.ZeroPadding1D, k.ZeroPadding2D, k.Cropping1D, k.Cropping2D,
        k.UpSampling1D, k.UpSampling2D, k.SpatialDropout2D,
    )  # fmt: skip
    table |= dict.fromkeys(spatial, pooling)
    table |= dict.fromkeys((k.Add, k.Subtract, k.Multiply, k.Average, k.Maximum, k.Minimum), merge)
    return table


# -- how channels relate


def _same(coupling: Coupling, use: Use) -> Ids | None:
    del coupling
    return use.inputs[0]


def _channels_last(coupling: Coupling, use: Use) -> Ids | None:
    last = getattr(use.layer, "data_format", None) in (None, "channels_last")
    return _same(coupling, use) if last else None


def _mixes(coupling: Coupling, use: Use) -> Ids | None:
    """Convolutions and dense layers: each output channel reads every input channel."""
    layer = use.layer
    if getattr(layer, "data_format", "channels_last") != "channels_last" or getattr(layer, "groups", 1) != 1:
        return None
    made = coupling.fresh(use.output[-1] or 0)
    _pin_unless_elementwise(coupling, layer, made)
    return made


def _depthwise(coupling: Coupling, use: Use) -> Ids | None:
    if use.layer.data_format != "channels_last":
        return None
    made = np.repeat(use.inputs[0], use.layer.depth_multiplier)
    _pin_unless_elementwise(coupling, use.layer, made)
    return made


def _activation(coupling: Coupling, use: Use) -> Ids | None:
    _pin_unless_elementwise(coupling, use.layer, use.inputs[0])
    return use.inputs[0]


def _pin_unless_elementwise(coupling: Coupling, layer: Any, ids: Ids) -> None:
    """A softmax, or a function of the user's own, may mix channels."""
    if not any(layer.activation is known for known in _elementwise_functions()):
        name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
        coupling.pin(ids, f"activation {name!r} of layer {layer.name!r} may mix channels")


@functools.cache
def _elementwise_functions() -> tuple[Any, ...]:
    import tensorflow as tf
    import tf_keras

    a = tf_keras.activations
    known = [a.elu, a.exponential, a.gelu, a.hard_sigmoid, a.linear, a.mish, a.relu, a.selu, a.sigmoid, a.softplus]
    known += [a.softsign, a.swish, a.tanh, a.get("relu6"), a.get("leaky_relu")]
    return (*known, tf.nn.relu, tf.nn.relu6, tf.nn.leaky_relu, tf.nn.elu, tf.nn.silu, tf.nn.tanh, tf.nn.sigmoid)


def _batch_norm(coupling: Coupling, use: Use) -> Ids | None:
    axis = use.layer.axis
    axes = [int(a) for a in (axis if isinstance(axis, list | tuple) else [axis])]
    return _same(coupling, use) if axes in ([len(use.output) - 1], [-1]) else None


def _rescaling(coupling: Coupling, use: Use) -> Ids | None:
    """With numbers for all channels; arrays hold one a channel, which nothing would slice."""
    plain = all(isinstance(value, int | float) for value in (use.layer.scale, use.layer.offset))
    return _same(coupling, use) if plain else None


def _merge(coupling: Coupling, use: Use) -> Ids | None:
    """Element by element; an input with one channel is broadcast over the others', and serves them all."""
    wide = [ids for ids in use.inputs if len(ids) == use.output[-1]]
    for ids in use.inputs:
        if len(ids) != len(wide[0]):
            coupling.pin(ids, f"layer {use.layer.name!r} broadcasts its one channel")
    for other in wide[1:]:
        coupling.couple(wide[0], other)
    return wide[0]


def _concatenate(coupling: Coupling, use: Use) -> Ids | None:
    if use.layer.axis in (-1, len(use.output) - 1):
        return np.concatenate(use.inputs)
    return _merge(coupling, use)


def _reshape_last(coupling: Coupling, use: Use) -> Ids | None:
    return _reshape(coupling, use) if use.layer.data_format == "channels_last" else None


def _reshape(coupling: Coupling, use: Use) -> Ids | None:
    """Where several places of the input lie over one index of the output's last axis, they go together: then the
    kept elements, in their order, are the smaller output's."""
    inner, made = use.shapes[0][1:], use.output[1:]
    if None in inner or None in made:
        return None
    everywhere = np.broadcast_to(use.inputs[0], [d or 0 for d in inner])
    rows = everywhere.reshape(-1, made[-1] or 0)
    for row in np.unique(rows, axis=0):
        coupling.couple(rows[0], row)
    return np.array(rows[0])


def _permute(coupling: Coupling, use: Use) -> Ids | None:
    return _same(coupling, use) if use.layer.dims[-1] == len(use.layer.dims) else None


# Operators written into a model as plain TensorFlow (x * y, tf.nn.relu6(x)): those that go element by element.
_OPERATIONS = frozenset(
    {
        *(f"__operators__.{n}" for n in ("add", "subtract", "multiply", "sub", "mul", "truediv")),
        *(f"math.{n}" for n in ("add", "subtract", "multiply", "maximum", "minimum", "divide", "truediv")),
        *(f"math.{n}" for n in ("abs", "exp", "negative", "rsqrt", "sigmoid", "softplus", "sqrt", "square", "tanh")),
        *(f"nn.{n}" for n in ("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "swish", "gelu")),
    }
)


def _operation(coupling: Coupling, use: Use) -> Ids | None:
    """Arrays among the arguments are constants that nothing would slice: `simple` excludes them."""
    return _merge(coupling, use) if use.simple and use.layer.symbol in _OPERATIONS else None


# -- slices of weights


def _bias(layer: Any) -> tuple[Slice, ...]:
    return (Slice("bias", 0, OUTPUT),) if layer.use_bias else ()


def _kernel_and_bias(layer: Any) -> tuple[Slice, ...]:
    rank = len(layer.kernel.shape)
    made = Slice("kernel", rank - 1, OUTPUT, kernel=True)
    return (Slice("kernel", rank - 2, INPUT, kernel=True, ends=True), made, *_bias(layer))


def _transposed_slices(layer: Any) -> tuple[Slice, ...]:
    return (
        Slice("kernel", 3, INPUT, kernel=True, ends=True),
        Slice("kernel", 2, OUTPUT, kernel=True),
        *_bias(layer),
    )


def _depthwise_slices(layer: Any) -> tuple[Slice, ...]:
    return (Slice("depthwise_kernel", 2, INPUT, kernel=True), *_bias(layer))


def _separable_slices(layer: Any) -> tuple[Slice, ...]:
    return (
        Slice("depthwise_kernel", 2, INPUT, kernel=True),
        Slice("pointwise_kernel", 2, INPUT, layer.depth_multiplier, kernel=True, ends=True),
        Slice("pointwise_kernel", 3, OUTPUT, kernel=True),
        *_bias(layer),
    )


def _batch_norm_slices(layer: Any) -> tuple[Slice, ...]:
    present = (("gamma", layer.scale), ("beta", layer.center), ("moving_mean", True), ("moving_variance", True))
    return tuple(Slice(name, 0, OUTPUT) for name, there in present if there)


def _prelu_slices(layer: Any) -> tuple[Slice, ...]:
    rank = len(layer.alpha.shape)
    shared = rank in (layer.shared_axes or [])  # counted with the batch
    return () if shared else (Slice("alpha", rank - 1, OUTPUT),)


# -- settings


def _units(layer: Any, widths: Widths) -> dict[str, Any]:
    del layer
    return {"units": widths.output}


def _filters(layer: Any, widths: Widths) -> dict[str, Any]:
    del layer
    return {"filters": widths.output}


def _target_shape(layer: Any, widths: Widths) -> dict[str, Any]:
    return {"target_shape": (*layer.target_shape[:-1], widths.output)}
