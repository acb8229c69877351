"""A .tflite model as frozen dataclasses. They're made by `read`, which has checked them: indices are in range."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.errors import ModelError

# Bits an element takes in a buffer, for every type of the schema with elements of one size.
BITS = {
    "int2": 2, "int4": 4, "uint4": 4, "bool": 8, "int8": 8, "uint8": 8, "float8_e4m3fn": 8, "float8_e5m2": 8,
    "int16": 16, "uint16": 16, "float16": 16, "bfloat16": 16, "int32": 32, "uint32": 32, "float32": 32,
    "int64": 64, "uint64": 64, "float64": 64, "complex64": 64, "complex128": 128,
}  # fmt: skip
NUMBERED = re.compile(r"[0-9a-z]{0,3}")  # names that slimming gives (slimming.py), or none
# Types whose elements have no size of their own.
UNSIZED = frozenset({"string", "resource", "variant"})

# Operators counted by `macs`: which input holds the weights, and their rank (None: at least 2).
WEIGHTS: dict[str, tuple[int, int | None]] = {
    "CONV_2D": (1, 4),
    "DEPTHWISE_CONV_2D": (1, 4),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (1, 4),
    "BATCH_MATMUL": (1, None),
}
# Inputs they need besides, with their least rank.
DATA_INPUT = {"TRANSPOSE_CONV": (2, 4), "BATCH_MATMUL": (0, 2)}


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point). One scale for the tensor, or one for each index of `dimension`."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    dimension: int

    @property
    def per_channel(self) -> bool:
        return len(self.scales) > 1


@dataclass(frozen=True)
class Tensor:
    """`shape_signature` has -1 where the size is free (`shape` has 1 there, as a rule).

    dtype: NumPy's name where NumPy has the type, else the schema's in lower case (int4, bfloat16, string, ...)
    buffer, buffer_size: where a constant's bytes are, and how many; size 0 for what is computed
    quantization_bytes: what scales, zero points, minima and maxima take in the file
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    buffer: int
    buffer_size: int
    is_constant: bool
    quantization: Quantization | None
    is_variable: bool = False
    is_sparse: bool = False
    quantization_bytes: int = 0

    @property
    def elements(self) -> int:
        """Number of elements; a free dimension counts as 1."""
        return math.prod(1 if size < 0 else size for size in self.shape)

    def info(self, name: str) -> TensorInfo:
        """As an input or output called `name`."""
        one = self.quantization if self.quantization and not self.quantization.per_channel else None
        return TensorInfo(
            name,
            self.shape_signature or self.shape,
            self.dtype,
            one.scales[0] if one else None,
            one.zero_points[0] if one else None,
        )


@dataclass(frozen=True)
class Operator:
    """`name` as in the schema ('CONV_2D'), or a custom operator's own code; -1 in `inputs` is an input left out.

    options: the schema's fields in snake case; enumerations by name (padding 'SAME', activation 'RELU6')
    custom_options: a custom operator's own, in a form that it alone knows
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    version: int
    options: dict[str, Any]
    custom: bool = False
    custom_options: bytes = b""


@dataclass(frozen=True)
class Subgraph:
    index: int
    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]

    def macs(self, operator: Operator) -> int:
        """Multiply-accumulates of one call of an operator of this subgraph; free dimensions count as 1.

        Counted are CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV and BATCH_MATMUL; 0 for all else.
        """
        if operator.name not in WEIGHTS or operator.custom:
            return 0
        weights = _sizes(self.tensors[operator.inputs[WEIGHTS[operator.name][0]]])
        output = self.tensors[operator.outputs[0]].elements
        if operator.name == "CONV_2D":  # [out, height, width, in / groups]
            return output * math.prod(weights[1:])
        if operator.name == "DEPTHWISE_CONV_2D":  # [1, height, width, out]
            return output * weights[1] * weights[2]
        if operator.name == "FULLY_CONNECTED":  # [out, in]
            return output * weights[1]
        if operator.name == "TRANSPOSE_CONV":  # [out, height, width, in]: every input element is spread
            return self.tensors[operator.inputs[2]].elements * math.prod(weights[:3])
        left = _sizes(self.tensors[operator.inputs[0]])
        return output * (left[-2] if operator.options.get("adj_x") else left[-1])


@dataclass(frozen=True)
class NamedSignature:
    """A SignatureDef: names of a subgraph's inputs and outputs, each with its tensor's index."""

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class Sparsity:
    """`zeros`: share of elements that stand for 0.0, in [0, 1]; `unique`: how many different stored values."""

    zeros: float
    unique: int
    elements: int


@dataclass(frozen=True)
class TfliteModel:
    """A validated file. `size` in bytes; `metadata` are the names of its metadata entries."""

    path: Path
    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[NamedSignature, ...]
    description: str
    metadata: tuple[str, ...]
    size: int
    buffers: tuple[npt.NDArray[np.uint8], ...] = field(repr=False, compare=False)

    @property
    def main(self) -> Subgraph:
        """The subgraph that `Interpreter.invoke` runs."""
        return self.subgraphs[0]

    def named(self, names: Mapping[int, str]) -> TfliteModel:
        """This model with these names, by index, for tensors of the main subgraph that have none, or the numbers that
        slimming gives (slimming.py)."""
        tensors = (
            dataclasses.replace(t, name=names.get(t.index) or t.name) if NUMBERED.fullmatch(t.name) else t
            for t in self.main.tensors
        )
        main = dataclasses.replace(self.main, tensors=tuple(tensors))
        return dataclasses.replace(self, subgraphs=(main, *self.subgraphs[1:]))

    @property
    def macs(self) -> int:
        """Of all operators of all subgraphs, each counted once (so a loop's body counts as one turn)."""
        return sum(graph.macs(operator) for graph in self.subgraphs for operator in graph.operators)

    @property
    def is_quantized(self) -> bool:
        """Whether some of the model's arithmetic may be in integers: its weights or activations are quantized."""
        kinds = ("int8", "uint8", "int16", "int4", "uint4", "int2")
        return any(t.quantization is not None and t.dtype in kinds for graph in self.subgraphs for t in graph.tensors)

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of the default signature, in the order of its subgraph.

        The default is 'serving_default', else the first. A model without signatures has its tensors' names.
        """
        chosen = next((s for s in self.signatures if s.key == "serving_default"), None)
        if chosen is None and self.signatures:
            chosen = self.signatures[0]
        graph = self.subgraphs[chosen.subgraph] if chosen else self.main
        return Signature(
            _named(graph, graph.inputs, chosen.inputs if chosen else {}),
            _named(graph, graph.outputs, chosen.outputs if chosen else {}),
        )

    def data(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A constant's elements in its shape, read-only where no unpacking is needed.

        2- and 4-bit integers come as int8 or uint8, bfloat16 as float32. ModelError for tensors that are not
        constant, and for those without plain elements: strings, 8-bit floats, and tensors stored as sparse.
        """
        if not tensor.is_constant:
            raise ModelError(f"{self.path}: tensor {tensor.index} ({tensor.name!r}) is not a constant")
        if tensor.is_sparse or tensor.dtype in UNSIZED or tensor.dtype.startswith("float8"):
            kind = "stored as sparse" if tensor.is_sparse else f"of type {tensor.dtype}"
            raise ModelError(f"{self.path}: tensor {tensor.index} ({tensor.name!r}) is {kind}: it can't be read here")
        stored = self.buffers[tensor.buffer]
        if BITS[tensor.dtype] < 8:
            return _unpack(stored, tensor.dtype, tensor.elements).reshape(tensor.shape)
        if tensor.dtype == "bfloat16":
            widened = np.frombuffer(stored, "<u2").astype("<u4") << 16
            return widened.view("<f4").reshape(tensor.shape)
        return np.frombuffer(stored, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)

    def sparsity(self, tensor: Tensor) -> Sparsity:
        """How many of a constant's elements are at the zero point (of their channel), and how many values it has."""
        values = self.data(tensor)
        zero: Any = 0
        if tensor.quantization is not None:
            zero = np.array(tensor.quantization.zero_points)
            if tensor.quantization.per_channel:
                along = [1] * values.ndim
                along[tensor.quantization.dimension] = -1
                zero = zero.reshape(along)
        zeros = int(np.count_nonzero(values == zero))
        return Sparsity(zeros / values.size if values.size else 0.0, len(np.unique(values)), values.size)


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    return tuple(1 if size < 0 else size for size in tensor.shape)


def _named(graph: Subgraph, indices: tuple[int, ...], names: Mapping[str, int]) -> tuple[TensorInfo, ...]:
    """In the subgraph's order. Two names may stand for one tensor: they're given out one by one."""
    left = dict(names)
    infos = []
    for index in indices:
        tensor = graph.tensors[index]
        name = next((name for name, at in left.items() if at == index), None)
        if name is not None:
            del left[name]
        infos.append(tensor.info(tensor.name if name is None else name))
    return tuple(infos)


def _unpack(stored: npt.NDArray[np.uint8], dtype: str, elements: int) -> npt.NDArray[Any]:
    """Elements of 2 or 4 bits, the lowest bits of a byte first."""
    bits = BITS[dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values: npt.NDArray[Any] = ((stored[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[:elements]
    if not dtype.startswith("u"):
        values = values.astype(np.int8)
        values[values >= 2 ** (bits - 1)] -= 2**bits
    return values
