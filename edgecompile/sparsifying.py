"""The sparse form of a .tflite: the same numbers, written so that XNNPACK takes its sparse kernels where it can.

Weights are stored in TFLite's sparse format (schema.fbs, SparsityParameters), their last dimension as compressed rows.
DENSIFY makes them plain again: LiteRT does that once, before the first run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.errors import CompressionGateError
from edgecompile.sparse_chain import SPATIAL, Chain
from edgecompile.task import Array
from edgecompile.tflite_file import TfliteModel, read, tables_of
from edgecompile.tflite_file.layout import CompactBuilder

_IDENTIFIER = b"TFL3"
_DENSE, _SPARSE_ROWS = 0, 1  # schema: DimensionType
_NOWHERE = 0  # the buffer of tensors without constants


@dataclass(frozen=True)
class SparseFile:
    """weights: how many tensors are stored as sparse. mirrored: the axes along which the chain runs reversed."""

    path: Path
    bytes_before: int
    bytes_after: int
    weights: int
    mirrored: tuple[int, ...]


def sparsify(model: TfliteModel, chain: Chain, path: Path) -> SparseFile:
    """Write the sparse form of `model` at `path`; the same model gives the same bytes.

    CompressionGateError where the file read back doesn't hold the weights that the model has. What it computes is what
    the model does, but for the order of additions where the chain is mirrored.
    """
    from ai_edge_litert import schema_py_generated as schema

    tables = tables_of(model)
    writer = _Writer(schema, tables)
    for index in chain.kernels if chain.mirrored else ():
        writer.replace(index, np.flip(model.data(model.main.tensors[index]), chain.mirrored))
    for index in chain.weights:
        writer.store_sparse(index, model.data(model.main.tensors[index]))
    if chain.mirrored:
        writer.reverse_input(chain)
    asymmetric = [item for item in chain.strided if chain.mirrored or not _is_equal(model, item)]
    for index, pad in asymmetric:
        writer.pad_equally(index, pad)
    for index in chain.pools:
        writer.mean(index)
    for index in chain.apart:
        writer.keep_apart(index)
    writer.finish()
    builder = CompactBuilder()
    path.write_bytes(builder.finish(tables.Pack(builder), _IDENTIFIER))
    _check(model, chain, path)
    return SparseFile(path, model.size, path.stat().st_size, len(chain.weights), chain.mirrored)


def _is_equal(model: TfliteModel, item: tuple[int, int | None]) -> bool:
    """Whether the operator has equal padding on both sides already, by a PAD in front of it and none of its own."""
    operator, pad = model.main.operators[item[0]], item[1]
    if pad is None or operator.options["padding"] != "VALID":
        return False
    paddings = model.data(model.main.tensors[model.main.operators[pad].inputs[1]])
    kernel = model.main.tensors[operator.inputs[1]].shape
    return all(paddings[axis].tolist() == [kernel[axis] // 2] * 2 for axis in SPATIAL)


@dataclass
class _Writer:
    """Changes to the schema's tables. New operators are kept by the one that they come before; new tensors need no
    name, as nothing looks them up."""

    schema: Any
    tables: Any
    before: dict[int, list[Any]] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)

    @property
    def graph(self) -> Any:
        return self.tables.subgraphs[0]

    def replace(self, tensor: int, values: Array) -> None:
        """Give a constant other values, of the same shape and dtype; others that share its bytes keep theirs."""
        self.graph.tensors[tensor].buffer = self._buffer(values)

    def store_sparse(self, tensor: int, values: Array) -> None:
        """Store a constant as sparse, in a new tensor, and compute the old one from it."""
        old = self.graph.tensors[tensor]
        new = self._tensor(values.shape, old.type, self._buffer(values[values != 0]))
        self.graph.tensors[new].sparsity = self._sparsity(values)
        old.buffer = _NOWHERE
        first = min(i for i, operator in enumerate(self.graph.operators) if tensor in operator.inputs)
        self._insert(first, "DENSIFY", "DensifyOptions", [new], tensor)

    def reverse_input(self, chain: Chain) -> None:
        """Mirror what the chain's first operator takes."""
        pad = dict(chain.strided)[chain.start]
        reader = chain.start if pad is None else pad
        given = int(self.graph.operators[reader].inputs[0])
        mirrored = self._like(given)
        axes = self._constant(np.array(chain.mirrored, np.int32))
        self._insert(reader, "REVERSE_V2", "ReverseV2Options", [given, axes], mirrored)
        self._redirect(reader, 0, mirrored)

    def pad_equally(self, index: int, pad: int | None) -> None:
        """Give the operator kernel // 2 zeros on all sides, by a PAD in front of it and none of its own."""
        operator = self.graph.operators[index]
        kernel = self.graph.tensors[operator.inputs[1]].shape
        sides = [int(kernel[axis]) // 2 for axis in SPATIAL]
        given = int(operator.inputs[0])
        if pad is not None:
            given = int(self.graph.operators[pad].inputs[0])
            self.dropped.add(pad)
        padded = self._like(given)
        tensor = self.graph.tensors[padded]
        for sizes in (tensor.shape, tensor.shapeSignature):
            if sizes is not None:
                for axis, side in zip(SPATIAL, sides, strict=True):
                    sizes[axis] += 2 * side
        paddings = np.array([[0, 0], *([side, side] for side in sides), [0, 0]], np.int32)
        constant = self._constant(paddings)
        self._insert(index, "PAD", "PadOptions", [given, constant], padded)
        self._redirect(index, 0, padded)
        operator.builtinOptions.padding = self.schema.Padding.VALID

    def mean(self, index: int) -> None:
        """Write pooling over the whole map as a mean that keeps dimensions."""
        operator = self.graph.operators[index]
        options = self.schema.ReducerOptionsT()
        options.keepDims = True
        axes = self._constant(np.array(SPATIAL, np.int32))
        operator.opcodeIndex = self._code("MEAN")
        operator.inputs = np.array([operator.inputs[0], axes], np.int32)
        operator.builtinOptionsType = self.schema.BuiltinOptions.ReducerOptions
        operator.builtinOptions = options

    def keep_apart(self, index: int) -> None:
        """Put a RESHAPE to the shape that a fully connected layer takes anyway in front of it."""
        operator = self.graph.operators[index]
        size = int(self.graph.tensors[operator.inputs[1]].shape[1])
        given = int(operator.inputs[0])
        shape = np.array([-1, size], np.int32)
        flat = self._tensor([1, size], self.graph.tensors[given].type, _NOWHERE)
        self.graph.tensors[flat].shapeSignature = shape
        self._insert(index, "RESHAPE", "ReshapeOptions", [given, self._constant(shape)], flat)
        self._redirect(index, 0, flat)

    def finish(self) -> None:
        """Put operators in order, and empty the buffers that nothing refers to any more."""
        operators: list[Any] = []
        for index, operator in enumerate(self.graph.operators):
            operators += self.before.get(index, [])
            if index not in self.dropped:
                operators.append(operator)
        self.graph.operators = operators
        used = {tensor.buffer for graph in self.tables.subgraphs for tensor in graph.tensors}
        used |= {entry.buffer for entry in self.tables.metadata or []}
        for index, buffer in enumerate(self.tables.buffers):
            if index not in used:
                buffer.data = None

    def _redirect(self, operator: int, position: int, tensor: int) -> None:
        inputs = np.array(self.graph.operators[operator].inputs, np.int32)
        inputs[position] = tensor
        self.graph.operators[operator].inputs = inputs

    def _insert(self, before: int, name: str, options: str, inputs: Sequence[int], output: int) -> None:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(self.schema, f"{options}T")()
        self.before.setdefault(before, []).append(operator)

    def _code(self, name: str) -> int:
        """The index of version 1 of a builtin operator's code, added where the model lacks it."""
        number = getattr(self.schema.BuiltinOperator, name)
        for index, code in enumerate(self.tables.operatorCodes):
            if max(code.deprecatedBuiltinCode, code.builtinCode) == number and code.version == 1:
                return index
        code = self.schema.OperatorCodeT()
        code.deprecatedBuiltinCode, code.builtinCode, code.version = number, number, 1
        self.tables.operatorCodes.append(code)
        return len(self.tables.operatorCodes) - 1

    def _buffer(self, values: Array) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.tables.buffers.append(buffer)
        return len(self.tables.buffers) - 1

    def _tensor(self, shape: Sequence[int], dtype: int, buffer: int) -> int:
        tensor = self.schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), dtype, buffer
        tensor.hasRank = True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _constant(self, values: Array) -> int:
        return self._tensor(values.shape, self.schema.TensorType.INT32, self._buffer(values))

    def _like(self, tensor: int) -> int:
        """A new computed tensor with the shape of another."""
        old = self.graph.tensors[tensor]
        new = self._tensor(old.shape, old.type, _NOWHERE)
        if old.shapeSignature is not None:
            self.graph.tensors[new].shapeSignature = np.array(old.shapeSignature, np.int32)
        return new

    def _sparsity(self, values: Array) -> Any:
        """All dimensions but the last are dense; of the last, the places of what isn't zero, row by row."""
        rows = values.reshape(-1, values.shape[-1])
        parameters = self.schema.SparsityParametersT()
        parameters.traversalOrder = np.arange(values.ndim, dtype=np.int32)
        parameters.dimMetadata = []
        for size in values.shape[:-1]:
            dimension = self.schema.DimensionMetadataT()
            dimension.format, dimension.denseSize = _DENSE, int(size)
            parameters.dimMetadata.append(dimension)
        last = self.schema.DimensionMetadataT()
        last.format = _SPARSE_ROWS
        ends = np.concatenate([[0], np.cumsum(np.count_nonzero(rows, axis=1))])
        last.arraySegmentsType, last.arraySegments = self._indices(ends)
        last.arrayIndicesType, last.arrayIndices = self._indices(np.nonzero(rows)[1])
        parameters.dimMetadata.append(last)
        return parameters

    def _indices(self, values: Array) -> tuple[int, Any]:
        """In the narrowest type that holds them."""
        largest = int(values.max(initial=0))
        name, dtype = next(
            (name, dtype) for name, dtype in _INDICES.items() if largest <= np.iinfo(dtype).max or dtype == np.int32
        )
        vector = getattr(self.schema, f"{name}T")()
        vector.values = values.astype(dtype)
        return getattr(self.schema.SparseIndexVector, name), vector


_INDICES: Mapping[str, Any] = {"Uint8Vector": np.uint8, "Uint16Vector": np.uint16, "Int32Vector": np.int32}


def _check(model: TfliteModel, chain: Chain, path: Path) -> None:
    """The weights of the file written, made dense again, against the model's, to the bit."""
    from ai_edge_litert import schema_py_generated as schema

    written = read(path)
    graph = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0]
    sources = {op.outputs[0]: op.inputs[0] for op in written.main.operators if op.name == "DENSIFY"}
    for index in chain.weights:
        expected = model.data(model.main.tensors[index])
        last = graph.tensors[sources[index]].sparsity.dimMetadata[-1]
        rows = np.zeros((expected.size // expected.shape[-1], expected.shape[-1]), expected.dtype)
        ends = np.asarray(last.arraySegments.values, np.int64)
        stored = written.buffers[written.main.tensors[sources[index]].buffer].view(expected.dtype)
        rows[np.repeat(np.arange(len(rows)), np.diff(ends)), np.asarray(last.arrayIndices.values, np.int64)] = stored
        if not np.array_equal(rows.reshape(expected.shape), expected):
            raise CompressionGateError(
                f"{path.name}: tensor {index} stored as sparse doesn't hold the model's weights",
                hint="report it with the model",
            )
