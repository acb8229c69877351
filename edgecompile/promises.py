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
from edgecompile.tflite_file.graph import WEIGHTS, Tensor

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
    scale. Of a layer without int8 weights, those in float are looked at.
    Errors: CompressionGateError that names the first layer whose promise is broken, or that isn't found.
    """
    kept = {}
    for layer, promise in promised.items():
        kept[layer], problem = _judge(model, layer, promise)
        if problem:
            raise CompressionGateError(problem, hint="report it: conversion, or the quantization scheme, lost them")
    return kept


def unkept(model: TfliteModel, promised: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """By layer, why `check` would fail for it."""
    problems = {layer: _judge(model, layer, promise)[1] for layer, promise in promised.items()}
    return {layer: problem for layer, problem in problems.items() if problem}


def _judge(model: TfliteModel, layer: str, promise: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(what the file has of the layer, the way in which its promise is broken or "")."""
    tensors = _weights(model, layer)
    if not tensors:
        return {}, f"layer {layer!r} was promised {_words(promise)}, and no weights of that name are in the .tflite"
    found = [_found(model, t) for t in tensors]
    if tensors[0].dtype == "int8":
        zeros = min(f["zeros"] for f in found)
    else:  # not all of them were pruned, and the promise is of all
        zeros = sum(f["zeros"] * t.elements for f, t in zip(found, tensors, strict=True)) / _elements(tensors)
    values = max(f["values"] for f in found)
    per_channel = all(f["per_channel"] for f in found)
    kept = {"zeros": zeros, "values": values, "per_channel": per_channel}
    limit = promise["channel_values" if per_channel else "values"]
    if zeros >= promise["zeros"] - _SLACK and (limit is None or values <= limit):
        return kept, ""
    return kept, (
        f"layer {layer!r} was promised {_words(promise)}; its {tensors[0].dtype} weights in the .tflite have "
        f"{zeros:.1%} zeros and {values} distinct values{' in an output channel' if per_channel else ''}"
    )


def _found(model: TfliteModel, tensor: Tensor) -> dict[str, Any]:
    per_channel = tensor.quantization is not None and tensor.quantization.per_channel
    axis = tensor.quantization.dimension if tensor.quantization is not None and per_channel else None
    values = distinct(model.data(tensor), axis)
    return {"zeros": model.sparsity(tensor).zeros, "values": values, "per_channel": per_channel}


def _weights(model: TfliteModel, layer: str) -> list[Tensor]:
    """The constants with the layer's int8 weights; where it has none, those with its weights in float.

    A kernel that several calls share has no layer's name: it's known by the operators that read it.
    """
    tensors = model.main.tensors
    named = [t for t in tensors if t.is_constant and is_of(t.name, layer)]
    read = [
        tensors[operator.inputs[WEIGHTS[operator.name][0]]]
        for operator in model.main.operators
        if operator.name in WEIGHTS and is_of(tensors[operator.outputs[0]].name, layer)
    ]
    shared = list({t.index: t for t in read if t.is_constant}.values())
    for candidates in (named, shared):
        integer = [t for t in candidates if t.dtype == "int8"]
        if integer:
            return integer
    return [t for t in named or shared if t.dtype == "float32" and len(t.shape) > 1]


def _elements(tensors: list[Tensor]) -> int:
    return int(sum(t.elements for t in tensors))


def _words(promise: Mapping[str, Any]) -> str:
    parts = [f"{promise['zeros']:.1%} zeros"] if promise["zeros"] else []
    if promise["values"] is not None:
        parts.append(f"at most {promise['channel_values']} distinct values in an output channel")
    return " and ".join(parts)


def is_of(tensor: str, layer: str) -> bool:
    """Whether the converter named the tensor after the layer or its quantization-aware wrapper."""
    return bool({layer, f"quant_{layer}"} & set(re.split("[/;:]", tensor)))
