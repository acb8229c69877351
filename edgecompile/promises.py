"""What a compression promised of a layer's weights, and whether the int8 weights of the .tflite keep it.

Training and conversion lose zeros and clusters without a word (BatchNorm folding, merged layers, a scheme that
treats some layers otherwise), so a promise is judged where it counts: in the file that is deployed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.errors import CompressionGateError
from edgecompile.task import Array
from edgecompile.tflite_file import TfliteModel

_SLACK = 0.01  # of a share of zeros: a threshold within equal weights, a kernel of few weights
_SPARSE = 0.02  # a kernel with fewer zeros was not pruned: training leaves next to none by itself
_CLUSTERS = 256  # with more values a kernel was not clustered, even if some happen to be equal


@dataclass(frozen=True)
class Promise:
    """zeros: least share of zeros. values: most distinct values in the whole tensor, channel_values: in one output
    channel; both None where none were promised."""

    zeros: float = 0.0
    values: int | None = None
    channel_values: int | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def of_kernel(kernel: Array, *, sparsity: bool, clusters: bool) -> Promise | None:
    """What a float kernel [..., output channels] that was pruned or clustered has to offer; None if nothing.

    A depthwise kernel comes as [height, width, output channels].
    """
    share = float(np.mean(kernel == 0))
    promise = Promise(zeros=share if sparsity and share >= _SPARSE else 0.0)
    if clusters and _is_clustered(kernel):
        promise = dataclasses.replace(promise, values=distinct(kernel, None), channel_values=distinct(kernel, -1))
    return None if promise == Promise() else promise


def _is_clustered(kernel: Array) -> bool:
    """Whether weights other than zeros are equal, in the kernel or in its output channels, as no training leaves them
    by itself. A channel with few weights may have no two that are equal, and one that is all zeros has none."""
    moved = kernel[kernel != 0]
    values = len(np.unique(moved))
    if values <= _CLUSTERS and values < moved.size:
        return True
    channels = [channel[channel != 0] for channel in np.moveaxis(kernel, -1, 0)]
    counts = [len(np.unique(channel)) for channel in channels]
    equal = any(count < channel.size for count, channel in zip(counts, channels, strict=True))
    return equal and max(counts) <= _CLUSTERS


def distinct(weights: Array, axis: int | None) -> int:
    """How many values there are: in the channel of `axis` that has most of them; in the whole array for None."""
    if axis is None:
        return len(np.unique(weights))
    return max(len(np.unique(channel)) for channel in np.moveaxis(weights, axis, 0))


def check(model: TfliteModel, promised: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By layer: zeros and distinct values found in the file's int8 weights.

    Values are counted by output channel where scales are per channel, in the whole tensor where there is one
    scale. Errors: CompressionGateError that names the first layer whose promise is broken, or that isn't found.
    """
    kept = {}
    for layer, promise in promised.items():
        tensors = [t for t in _int8(model) if is_of(t.name, layer)]
        if not tensors:
            raise CompressionGateError(
                f"layer {layer!r} was promised {_words(promise)}, and no int8 weights of that name are in the .tflite",
                hint="report it: the converter merged or renamed the layer, so its promise can't be checked",
            )
        found = [_found(model.data(t), t.quantization) for t in tensors]
        zeros = min(f["zeros"] for f in found)
        values = max(f["values"] for f in found)
        per_channel = all(f["per_channel"] for f in found)
        kept[layer] = {"zeros": zeros, "values": values, "per_channel": per_channel}
        limit = promise["channel_values" if per_channel else "values"]
        if zeros < promise["zeros"] - _SLACK or (limit is not None and values > limit):
            raise CompressionGateError(
                f"layer {layer!r} was promised {_words(promise)}; its int8 weights in the .tflite have "
                f"{zeros:.1%} zeros and {values} distinct values{' in an output channel' if per_channel else ''}",
                hint="report it: the quantization scheme lost them",
            )
    return kept


def _found(data: Array, quantization: Any) -> dict[str, Any]:
    per_channel = quantization is not None and quantization.per_channel
    values = distinct(data, quantization.dimension if per_channel else None)
    return {"zeros": float(np.mean(data == 0)), "values": values, "per_channel": per_channel}


def _int8(model: TfliteModel) -> list[Any]:
    return [t for t in model.main.tensors if t.is_constant and t.dtype == "int8"]


def _words(promise: Mapping[str, Any]) -> str:
    parts = [f"{promise['zeros']:.1%} zeros"] if promise["zeros"] else []
    if promise["values"] is not None:
        parts.append(f"at most {promise['channel_values']} distinct values in an output channel")
    return " and ".join(parts)


def is_of(tensor: str, layer: str) -> bool:
    """Whether the converter named the tensor after the layer or its quantization-aware wrapper."""
    return bool({layer, f"quant_{layer}"} & set(re.split("[/;:]", tensor)))
