"""What must hold between the parts of a model, so that no reader after this one meets a surprise.

A runtime checks some of this itself, some only in debug builds, and some (a constant of the wrong size) not at all.
"""

from __future__ import annotations

import math

from edgecompile.tflite_file.graph import (
    BITS,
    DATA_INPUT,
    UNSIZED,
    WEIGHTS,
    Operator,
    Subgraph,
    Tensor,
    TfliteModel,
)
from edgecompile.tflite_file.structure import Malformed

_MOST_BYTES = 2**31 - 1  # offsets in the format, and sizes in LiteRT's kernels, have 32 bits
_LIMITS = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (-(2**31), 2**31 - 1),
}


def check(model: TfliteModel) -> None:
    """Raise Malformed at the first thing that is wrong."""
    if not model.subgraphs:
        raise Malformed("expected at least one subgraph, received none")
    for graph in model.subgraphs:
        prefix = f"subgraph {graph.index}: " if len(model.subgraphs) > 1 else ""
        for tensor in graph.tensors:
            where = f"{prefix}tensor {tensor.index} ({tensor.name!r})"
            _shape(tensor, where)
            _quantization(tensor, where)
            _constant(tensor, where)
        _edges(graph, prefix)
    _signatures(model)


def _shape(tensor: Tensor, where: str) -> None:
    for what, shape in (("shape", tensor.shape), ("shape signature", tensor.shape_signature)):
        if any(size < -1 for size in shape):
            raise Malformed(f"{where}: expected sizes of -1 (free) or more, received {what} {list(shape)}")
    if len(tensor.shape_signature) != len(tensor.shape):
        raise Malformed(
            f"{where}: expected a shape signature of rank {len(tensor.shape)}, received {list(tensor.shape_signature)}"
        )
    size = tensor.elements * BITS.get(tensor.dtype, 8) // 8
    if size > _MOST_BYTES:  # a runtime makes room for what is declared, whatever its operators give
        raise Malformed(f"{where}: expected 2 GiB at most, received the shape {list(tensor.shape)} ({size:,} bytes)")


def _quantization(tensor: Tensor, where: str) -> None:
    quantization = tensor.quantization
    if quantization is None:
        return
    rank, dimension, scales = len(tensor.shape), quantization.dimension, quantization.scales
    # Scalars, and tensors of unknown rank, have no dimensions: 0 stands there.
    if not 0 <= dimension < max(rank, 1):
        raise Malformed(f"{where}: expected a quantized dimension from 0 to {max(rank, 1) - 1}, received {dimension}")
    if len(scales) > 1 and (not rank or len(scales) != tensor.shape[dimension]):
        size = tensor.shape[dimension] if rank else 1
        raise Malformed(f"{where}: expected 1 or {size} scales (dimension {dimension}), received {len(scales)}")
    for scale in scales:
        if not math.isfinite(scale) or scale <= 0:
            raise Malformed(f"{where}: expected finite scales above 0, received {scale}")
    low, high = _LIMITS.get(tensor.dtype, (-(2**63), 2**63 - 1))
    for zero_point in quantization.zero_points:
        if not low <= zero_point <= high:
            raise Malformed(f"{where}: expected zero points from {low} to {high}, received {zero_point}")


def _constant(tensor: Tensor, where: str) -> None:
    if not tensor.is_constant or tensor.is_sparse or tensor.dtype in UNSIZED:
        return
    if any(size < 0 for size in tensor.shape):
        raise Malformed(f"{where}: expected a constant with a fixed shape, received {list(tensor.shape)}")
    expected = -(-tensor.elements * BITS[tensor.dtype] // 8)
    if tensor.buffer_size != expected:
        raise Malformed(
            f"{where}: expected {expected} bytes for {tensor.dtype}{list(tensor.shape)}, received {tensor.buffer_size}"
        )


def _edges(graph: Subgraph, prefix: str) -> None:
    """Every index is a tensor's, and every tensor read was given, is constant, or was computed before."""
    count = len(graph.tensors)

    def in_range(indices: tuple[int, ...], what: str, optional: bool) -> None:
        for index in indices:
            if not (-1 if optional else 0) <= index < count:
                raise Malformed(f"{prefix}{what}: expected tensors below {count}, received index {index}")

    in_range(graph.inputs, "inputs", optional=False)
    in_range(graph.outputs, "outputs", optional=False)
    known = {-1, *graph.inputs}
    known.update(t.index for t in graph.tensors if t.is_constant or t.is_variable or not t.elements)
    for operator in graph.operators:
        what = f"operator {operator.index} ({operator.name})"
        in_range(operator.inputs, f"{what}, inputs", optional=True)
        in_range(operator.outputs, f"{what}, outputs", optional=True)
        for index in operator.inputs:
            if index not in known:
                name = graph.tensors[index].name
                raise Malformed(f"{prefix}{what}: reads tensor {index} ({name!r}), which nothing before it produces")
        known.update(operator.outputs)
        _operands(graph, operator, prefix + what)
    for index in graph.outputs:
        if index not in known:
            name = graph.tensors[index].name
            raise Malformed(f"{prefix}output tensor {index} ({name!r}) is produced by no operator")


def _operands(graph: Subgraph, operator: Operator, what: str) -> None:
    """Ranks that counting MACs, and every compiler, takes for granted."""
    if operator.name not in WEIGHTS or operator.custom:
        return
    if not operator.outputs or operator.outputs[0] < 0:
        raise Malformed(f"{what}: expected an output, received none")
    position, rank = WEIGHTS[operator.name]
    needed = [(position, rank or 2, rank or math.inf)]
    if operator.name in DATA_INPUT:
        needed.append((*DATA_INPUT[operator.name], math.inf))
    for at, least, most in needed:
        if at >= len(operator.inputs) or operator.inputs[at] < 0:
            raise Malformed(f"{what}: expected {at + 1} inputs or more, received {list(operator.inputs)}")
        shape = graph.tensors[operator.inputs[at]].shape
        if not least <= len(shape) <= most:
            raise Malformed(f"{what}: expected input {at} of rank {least}, received shape {list(shape)}")


def _signatures(model: TfliteModel) -> None:
    for signature in model.signatures:
        what = f"signature {signature.key!r}"
        if signature.subgraph >= len(model.subgraphs):
            raise Malformed(f"{what}: expected a subgraph below {len(model.subgraphs)}, received {signature.subgraph}")
        graph = model.subgraphs[signature.subgraph]
        for kind, entries, allowed in (
            ("input", signature.inputs, graph.inputs),
            ("output", signature.outputs, graph.outputs),
        ):
            for name, index in entries.items():
                if index not in allowed:
                    raise Malformed(
                        f"{what}, {kind} {name!r}: expected one of the subgraph's {kind}s {list(allowed)}, "
                        f"received tensor {index}"
                    )
