"""What the layers of a model answer on real samples, and along which axes those answers vary.

A kernel says how much a layer could answer to any input; on the inputs that there are, its answers often lie near
far fewer dimensions. Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection"
(2016), section 3.1 (the linear case).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.bridge.graph import ordered_sample

_BATCH = 32

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Responses:
    """Principal components of a layer's answers before bias and activation, over samples and positions.

    axes: [out, out], orthonormal columns, the one along which answers vary most first; strength: [out], the root of
    the mean square along each; mean: [out], what was subtracted (zeros for a layer whose bias can't hold it).
    """

    axes: Array
    strength: Array
    mean: Array

    def split(self, kernel: Array, rank: int) -> tuple[Array, Array, Array]:
        """([..., in, rank], [1, ..., rank, out], [out]): two kernels, and what to add to the bias. The pair's answers
        on the samples are the nearest to the layer's, in squared error, that `rank` allows."""
        axes = self.axes[:, :rank]
        second = axes.T.reshape(*(1,) * (kernel.ndim - 2), rank, kernel.shape[-1])
        return kernel @ axes, second, self.mean - self.mean @ axes @ axes.T


def measure_responses(model: Any, layers: Sequence[Any], x: Mapping[str, npt.NDArray[Any]]) -> dict[str, Responses]:
    """By name, of `layers` (Dense or convolutions) of a functional tf-keras model.

    x: samples by input name, [n, ...]; n >= 1.
    """
    import tf_keras

    uses = [(index, layer.get_input_at(i)) for index, layer in enumerate(layers) for i in _uses(layer)]
    kept = tf_keras.Model(model.inputs, [tensor for _, tensor in uses])
    linear = [_linear(layer) for layer in layers]
    sums = [np.zeros(layer.kernel.shape[-1]) for layer in layers]
    products = [np.zeros((len(s), len(s))) for s in sums]
    counts = [0] * len(layers)
    arrays = ordered_sample(model, x)
    for start in range(0, len(arrays[0]), _BATCH):
        batch = [a[start : start + _BATCH] for a in arrays]
        tensors = kept(batch, training=False)
        for (index, _), tensor in zip(uses, [tensors] if len(uses) == 1 else tensors, strict=True):
            answers = linear[index](tensor).numpy().reshape(-1, len(sums[index])).astype(np.float64)
            sums[index] += answers.sum(axis=0)
            products[index] += answers.T @ answers
            counts[index] += len(answers)
    return {
        layer.name: _components(sums[i] / counts[i] * layer.use_bias, products[i] / counts[i])
        for i, layer in enumerate(layers)
    }


def _uses(layer: Any) -> range:
    return range(len(layer.inbound_nodes))


def _linear(layer: Any) -> Any:
    """The layer without bias and activation."""
    plain = {"use_bias": False, "activation": "linear", "kernel_initializer": "zeros", "activity_regularizer": None}
    twin = type(layer).from_config({**layer.get_config(), **plain})
    twin.build(layer.get_input_shape_at(0))
    twin.set_weights([layer.kernel.numpy()])
    return twin


def _components(mean: Array, products: Array) -> Responses:
    values, axes = np.linalg.eigh(products - np.outer(mean, mean))
    order = np.argsort(values)[::-1]
    return Responses(axes[:, order], np.sqrt(np.maximum(values[order], 0)), mean)
