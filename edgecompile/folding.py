"""BatchNorm folded into the Dense layer before it, which TF-MOT leaves to nobody.

Its scheme folds BatchNorm into convolutions while they train. A Dense kernel has one int8 scale for the whole tensor,
into which the converter can't fold a factor a channel after the fact: it leaves such kernels in float, without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecompile.bridge import bypass

FOLDED = "BatchNorm folded into the Dense layer before it"  # a note, with the names that are given


def fold_dense_batchnorm(model: Any) -> tuple[Any, list[str]]:
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
            _folded(weights, folded[layer.name]) if layer.name in folded else weights
        )
    names = [norm.name for norm in folded.values()]
    return bypass(wide, names), names


def _norm_after(layer: Any) -> Any:
    """The BatchNorm that alone reads this linear Dense layer, over the axis of its units; None if there is none."""
    import tf_keras

    if not isinstance(layer, tf_keras.layers.Dense) or tf_keras.activations.serialize(layer.activation) != "linear":
        return None
    if len(layer.inbound_nodes) != 1 or len(layer.outbound_nodes) != 1:
        return None
    norm = layer.outbound_nodes[0].layer
    if not isinstance(norm, tf_keras.layers.BatchNormalization) or len(norm.inbound_nodes) != 1:
        return None
    return norm if list(norm.axis) == [len(layer.output.shape) - 1] else None


def _folded(dense: list[Any], norm: Any) -> list[Any]:
    """[kernel, bias] from a Dense layer's weights, the bias being optional."""
    mean, variance = np.float64(norm.moving_mean.numpy()), np.float64(norm.moving_variance.numpy())
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * norm.gamma.numpy()
    bias = ((dense[1] if len(dense) > 1 else 0) - mean) * factor
    if norm.center:
        bias = bias + norm.beta.numpy()
    return [(dense[0] * factor).astype(np.float32), bias.astype(np.float32)]
