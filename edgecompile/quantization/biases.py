"""Biases too large for the scale they must have.

That is the scale of the operator's input times that of its weights. Where a channel's weights are (almost) zero, as in
channels that died in training (9 of MobileNetV2's), a bias doesn't fit into int32 with it: ai-edge-quantizer cuts it
off, and turns a positive one into the most negative number there is. Into int64 (activations of int16) it fits, but
the factor from the sum to the output is then below what LiteRT's kernels can express, 2^-31, and the channel gives
zeros. Such a channel gets weights of a larger scale instead, as TensorFlow's converter does it: they lose precision,
which the bias drowns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.tflite_file import Operator, Subgraph, TfliteModel, read, tables_of, write_tables

_BIASED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_STORED = {"int32": np.int32, "int64": np.int64}
_LARGEST = 2**31 - 1
_WANTED = 2**30  # leaves the sum of products as much room as the bias takes

Float64 = npt.NDArray[np.float64]


def mend_biases(result: TfliteModel, source: TfliteModel) -> TfliteModel:
    """`result`, quantized from the float model `source`, written anew where biases of int8 weights are too large."""
    wrong = [(graph, op, bias) for graph in result.subgraphs for op, bias in _too_large(graph, source)]
    if not wrong:
        return result
    tables = tables_of(result)
    for graph, op, bias in wrong:
        stored = _STORED[graph.tensors[op.inputs[2]].dtype]
        _rescale(tables, tables.subgraphs[graph.index].tensors, op, bias, stored)
    return read(write_tables(tables, result.path))


def _too_large(graph: Subgraph, source: TfliteModel) -> Iterator[tuple[Operator, Float64]]:
    """Operators with the biases that they should have, as real numbers."""
    floats = {t.name: t for t in source.subgraphs[graph.index].tensors if t.is_constant and t.dtype == "float32"}
    for op in graph.operators:
        if op.name not in _BIASED or len(op.inputs) < 3 or op.inputs[2] < 0:
            continue
        weights, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2]]
        original = floats.get(bias.name)
        if weights.dtype == "int8" and bias.dtype in _STORED and bias.quantization and original:
            real = source.data(original).astype(np.float64)
            if np.any(np.abs(real) > _LARGEST * np.array(bias.quantization.scales)):
                yield op, real


def _rescale(tables: Any, tensors: Any, op: Operator, real: Float64, dtype: Any) -> None:
    """Another scale for weights and bias, and both in it, where the bias (as `real` numbers) is too large."""
    inputs, weights, bias = (tensors[i] for i in op.inputs[:3])
    before = np.asarray(bias.quantization.scale, np.float64)
    needed = np.abs(real) if len(before) == len(real) else np.abs(real).max(keepdims=True)
    after = np.where(needed > _LARGEST * before, needed / _WANTED, before)
    weights.quantization.scale = (after / inputs.quantization.scale[0]).astype(np.float32)
    bias.quantization.scale = after.astype(np.float32)
    shape = np.ones(len(weights.shape), int)
    shape[weights.quantization.quantizedDimension] = len(after)
    stored = np.frombuffer(tables.buffers[weights.buffer].data, np.int8).reshape(weights.shape)
    _replace(tables, weights, np.rint(stored * (before / after).reshape(shape)).astype(np.int8))
    kept = np.frombuffer(tables.buffers[bias.buffer].data, dtype)
    changed = np.broadcast_to(after != before, real.shape)
    _replace(tables, bias, np.where(changed, np.rint(real / after), kept).astype(dtype))


def _replace(tables: Any, tensor: Any, values: npt.NDArray[Any]) -> None:
    """In a buffer of its own: others may share the old one."""
    tensor.buffer = len(tables.buffers)
    tables.buffers.append(type(tables.buffers[0])(data=np.frombuffer(values.tobytes(), np.uint8)))
