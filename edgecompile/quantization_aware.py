"""The quantization-aware twin of a tf-keras model, as TF-MOT makes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgecompile.errors import ConversionError, UnsupportedLayerError
from edgecompile.preserving import preserving_scheme
from edgecompile.stages.base import Context
from edgecompile.stages.trainable import trainable_model
from edgecompile.task import Array
from edgecompile.ties import Ties

_LEAST_RANGE = 1e-3  # of an activation that is always zero


def quantization_aware(model: Any, ties: Mapping[str, Ties] | None = None) -> tuple[Any, dict[str, str]]:
    """(the quantization-aware twin of a flat tf-keras model, the layers it leaves in float and what they are).

    ties: by layer name, weights that have to stay equal, or zero, while the twin trains.
    Errors: UnsupportedLayerError where TF-MOT can't take the graph at all.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
    )

    registry = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    left_float: dict[str, str] = {}

    def annotate(layer: Any) -> Any:
        if isinstance(layer, tf_keras.layers.InputLayer):
            return layer
        shared = len(layer.inbound_nodes) > 1
        # TFLite runs what TF-MOT makes of a transposed convolution in float, between a DEQUANTIZE and float factors.
        transposed = isinstance(layer, tf_keras.layers.Conv2DTranspose)
        if (registry.supports(layer) or _folds(layer)) and not shared and not transposed:
            return tfmot.quantization.keras.quantize_annotate_layer(layer)
        left_float[layer.name] = f"{'shared ' if shared else ''}{type(layer).__name__}"
        return layer

    annotated = tf_keras.models.clone_model(model, clone_function=annotate)
    if not any(type(layer).__name__ == "QuantizeAnnotate" for layer in annotated.layers):
        raise UnsupportedLayerError(
            f"TF-MOT can't quantize any layer of this model: {', '.join(left_float)}", hint="take recipe int8"
        )
    try:
        with tfmot.quantization.keras.quantize_scope():
            twin = tfmot.quantization.keras.quantize_apply(annotated, preserving_scheme(ties or {}))
    except (ValueError, TypeError, RuntimeError, AttributeError) as problem:
        raise UnsupportedLayerError(
            f"TF-MOT can't make this model quantization-aware: {problem}",
            hint="take recipe int8 (post-training), which needs no change of the graph",
        ) from problem
    return twin, left_float


def may_stay_float(model: Any, left_float: Collection[str]) -> list[str]:
    """Names of the layers with kernels that read, at once or through layers without kernels, what a layer left in float
    gives: that has no range, and the converter may leave such a kernel in float."""
    floating = set(left_float)
    found = []
    for layer in model.layers:
        before = [tensor for node in layer.inbound_nodes for tensor in _sources(node)]
        if not any(source.name in floating for source in before):
            continue
        if any("kernel" in weight.name for weight in layer.weights):
            found.append(layer.name)
        else:
            floating.add(layer.name)
    return [name for name in found if name not in left_float]


def _sources(node: Any) -> list[Any]:
    """The layers whose outputs a call of a layer read."""
    layers = node.inbound_layers
    return list(layers) if isinstance(layers, list | tuple) else [layers]


def calibrate(twin: Any, batches: Iterable[Sequence[Array]]) -> None:
    """Set the ranges of a new twin's activations to the widest that they have on these inputs, [n, ...] each.

    TF-MOT starts all of them at [-6, 6] and moves them by a thousandth of the difference a step: a short training
    ends before ranges that lie elsewhere are reached, and has learnt to live with clipped activations until then.
    """
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import (
        MovingAverageQuantizer,
        Quantizer,
    )

    seen: dict[Any, tuple[Any, Any]] = {}

    class Observe(MovingAverageQuantizer):  # type: ignore[misc]
        def __call__(self, inputs: Any, *_: Any, weights: Any) -> Any:
            key = (weights["min_var"].ref(), weights["max_var"].ref())
            least, most = seen.get(key, (0.0, 0.0))  # zero has to be in the range
            seen[key] = (min(least, float(tf.reduce_min(inputs))), max(most, float(tf.reduce_max(inputs))))
            return inputs

    class Pass(Quantizer):  # type: ignore[misc]
        def __call__(self, inputs: Any, *_: Any, weights: Any) -> Any:
            del weights  # the first training step sets a kernel's range, and until then it would be clipped too
            return inputs

    kernels, activations = _quantizers(twin)
    with ExitStack() as undo:
        for quantizers, instead in ((kernels, Pass), (activations, Observe)):
            for quantizer in quantizers:
                undo.callback(setattr, quantizer, "__class__", type(quantizer))
                quantizer.__class__ = instead
        for batch in batches:
            twin(batch[0] if len(batch) == 1 else list(batch), training=False)
    for (low, high), (least, most) in seen.items():
        low.deref().assign(least)
        high.deref().assign(max(most, least + _LEAST_RANGE))


def _quantizers(twin: Any) -> tuple[list[Any], list[Any]]:
    """(of kernels, of inputs and activations whose range is learnt), each once."""
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import (
        AllValuesQuantizer,
        MovingAverageQuantizer,
    )

    kernels, others = [], []
    for layer in twin.layers:
        kernels += [quantizer for _, quantizer, _ in getattr(layer, "_weight_vars", ())]
        others += [activation.quantizer for activation in getattr(layer, "_quantize_activations", ())]
        others += [*(getattr(layer, "_output_quantizers", None) or ()), getattr(layer, "quantizer", None)]
    learnt = [q for q in others if isinstance(q, AllValuesQuantizer | MovingAverageQuantizer)]
    return list({id(q): q for q in kernels}.values()), list({id(q): q for q in learnt}.values())


def kernel_variables(twin: Any) -> dict[str, Any]:
    """By the name of the layer in the model that the twin was made of: its float kernel's variable."""
    wrapped = [layer for layer in twin.layers if getattr(layer, "_weight_vars", None)]
    return {layer.layer.name: layer._weight_vars[0][0] for layer in wrapped}


def load_quantization_aware(artifact: Any, ctx: Context) -> Any:
    """The trained twin again: rebuilt from its base, since TF-MOT's own saving loses what holds it together."""
    model, _ = quantization_aware(trainable_model(artifact, ctx))
    with np.load(artifact.files["weights"]) as saved:
        if len(saved.files) != len(model.variables):
            raise ConversionError(
                f"the quantization-aware model has {len(model.variables)} variables, its file {len(saved.files)}"
            )
        for i, variable in enumerate(model.variables):
            variable.assign(saved[f"arr_{i}"])
    return model


def _folds(layer: Any) -> bool:
    """Whether TF-MOT folds this BatchNorm into the layer before it; it knows BatchNorm in no other place."""
    import tf_keras

    if not isinstance(layer, tf_keras.layers.BatchNormalization):
        return False
    before = layer.inbound_nodes[0].inbound_layers
    foldable = (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D, tf_keras.layers.Dense)
    return (
        isinstance(before, foldable)
        and len(before.outbound_nodes) == 1
        and tf_keras.activations.serialize(before.activation) == "linear"
    )
