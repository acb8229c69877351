"""Where the ranges of a new twin start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from edgecompile.task import Array

_LEAST_RANGE = 1e-3  # of an activation that is always zero


def calibrate(twin: Any, batches: Iterable[Sequence[Array]]) -> None:
    """Set the ranges of a new twin: of kernels to what they hold, of activations to the widest that they have on
    these inputs, [n, ...] each.

    TF-MOT starts all of them at [-6, 6] and moves activations' by a thousandth of the difference a step: a short
    training ends before ranges that lie elsewhere are reached, and has learnt to live with clipped activations.
    """
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import MovingAverageQuantizer

    seen: dict[Any, tuple[Any, Any]] = {}

    class Observe(MovingAverageQuantizer):  # type: ignore[misc]
        def __call__(self, inputs: Any, *_: Any, weights: Any) -> Any:
            key = (weights["min_var"].ref(), weights["max_var"].ref())
            least, most = seen.get(key, (0.0, 0.0))  # zero has to be in the range
            seen[key] = (min(least, float(tf.reduce_min(inputs))), max(most, float(tf.reduce_max(inputs))))
            return inputs

    for layer in twin.layers:
        for kernel, quantizer, variables in getattr(layer, "_weight_vars", ()):
            quantizer(kernel, True, weights=variables)
    with ExitStack() as undo:
        for quantizer in _of_activations(twin):
            undo.callback(setattr, quantizer, "__class__", type(quantizer))
            quantizer.__class__ = Observe
        for batch in batches:
            twin(batch[0] if len(batch) == 1 else list(batch), training=False)
    for (low, high), (least, most) in seen.items():
        low.deref().assign(least)
        high.deref().assign(max(most, least + _LEAST_RANGE))


def _of_activations(twin: Any) -> list[Any]:
    """The quantizers of inputs and activations."""
    return [layer.quantizer for layer in twin.layers if getattr(layer, "quantizer", None) is not None]
