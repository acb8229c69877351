"""BatchNorm folded into the layer before it where the converter doesn't do that for quantized kernels.

It multiplies BatchNorm into convolutions, which train with it. A Dense kernel has one int8 scale for the whole tensor,
into which no factor a channel can be folded after the fact; nor does the converter look behind the reshapes of
one-dimensional convolutions, or into transposed ones. It leaves such kernels in float, without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecompile.bridge import bypass
from edgecompile.quantization_aware.kinds import KERNELS, activation_of

FOLDED = "BatchNorm folded into the layer before it"  # a note, with the names that are given
_BY_CONVERTER = ("Conv2D", "DepthwiseConv2D")


def fold_batchnorm(model: Any) -> tuple[Any, list[str]]:
    """(a flat tf-keras model that computes the same in inference, names of the BatchNorms it no longer has).

    `model` itself where there is nothing to fold. Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference" (2018), section 3.2, equation 14.
    """
    import tf_keras

    shown = {id(tensor) for tensor in model.outputs}
    folded = {
        layer.name: norm
        for layer in model.layers
        if (norm := _norm_after(layer)) is not None and id(layer.output) not in shown
    }
    if not folded:
        return model, []

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config({**config, "use_bias": True} if layer.name in folded else config)

    wide = tf_keras.models.clone_model(model, clone_function=clone)
    wide.output_names = list(model.output_names)
    for layer in model.layers:
        weights = layer.get_weights()
        wide.get_layer(layer.name).set_weights(
            _folded(layer, weights, folded[layer.name]) if layer.name in folded else weights
        )
    names = [norm.name for norm in folded.values()]
    return bypass(wide, names), names


def _norm_after(layer: Any) -> Any:
    """The BatchNorm that alone reads this linear layer, over the axis of its channels; None if there is none."""
    import tf_keras

    kind = type(layer).__name__
    if kind not in KERNELS or kind in _BY_CONVERTER or activation_of(layer) != "linear":
        return None
    if getattr(layer, "data_format", None) == "channels_first":
        return None
    if len(layer.inbound_nodes) != 1 or len(layer.outbound_nodes) != 1:
        return None
    norm = layer.outbound_nodes[0].layer
    if not isinstance(norm, tf_keras.layers.BatchNormalization) or len(norm.inbound_nodes) != 1:
        return None
    return norm if list(norm.axis) == [len(layer.output.shape) - 1] else None


def _folded(layer: Any, weights: list[Any], norm: Any) -> list[Any]:
    """[kernel, bias] from a layer's weights, the bias being optional."""
    factor, offset = affine(norm)
    _, channels = KERNELS[type(layer).__name__]
    kernel = weights[0]
    by_channel = factor.reshape([size if axis in channels else 1 for axis, size in enumerate(kernel.shape)])
    bias = (weights[1] if len(weights) > 1 else 0) * factor + offset
    return [(kernel * by_channel).astype(np.float32), bias.astype(np.float32)]


def affine(norm: Any) -> tuple[Any, Any]:
    """(factor, offset) of a BatchNorm in inference, float64 [channels] each."""
    mean, variance = np.float64(norm.moving_mean.numpy()), np.float64(norm.moving_variance.numpy())
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * norm.gamma.numpy()
    offset = -mean * factor
    if norm.center:
        offset = offset + norm.beta.numpy()
    return factor, offset
