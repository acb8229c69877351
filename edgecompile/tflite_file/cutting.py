"""A part of a model as a model of its own."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.tflite_file.graph import Operator, Tensor, TfliteModel
from edgecompile.tflite_file.reading import read
from edgecompile.tflite_file.writing import tables_of, with_signature, write_tables


def cut(model: TfliteModel, last: int, path: Path) -> TfliteModel:
    """The operators of the main subgraph up to number `last`, written to `path`. Outputs are all that the rest would
    have read, and those of the model that are made by then: named t<tensor's number>."""
    graph = model.main
    made = [index for op in graph.operators[: last + 1] for index in op.outputs if index >= 0]
    wanted = {index for op in graph.operators[last + 1 :] for index in op.inputs} | set(graph.outputs)
    outputs = [index for index in made if index in wanted] or made[-1:]
    tables = tables_of(model)
    main = tables.subgraphs[0]
    main.operators = main.operators[: last + 1]
    main.outputs = np.array(outputs, np.int32)
    tables.signatureDefs = None
    names = Signature(model.signature.inputs, tuple(_info(graph.tensors[index]) for index in outputs))
    return read(with_signature(read(write_tables(tables, path)), names, path))


def alone(model: TfliteModel, operator: Operator, shape: tuple[int, ...], path: Path) -> Path:
    """An operator of the main subgraph, from its first input to its first output, both of `shape`, written to `path`.
    Its further inputs have to be constants."""
    tables = tables_of(model)
    main = tables.subgraphs[0]
    kept = [index for index in (*operator.inputs, operator.outputs[0]) if index >= 0]
    tensors = [copy.copy(main.tensors[index]) for index in kept]
    tables.buffers = [type(tables.buffers[0])(), *(tables.buffers[tensor.buffer] for tensor in tensors[1:-1])]
    for number, tensor in enumerate(tensors):
        tensor.buffer = 0 if number in (0, len(tensors) - 1) else number
    for tensor in (tensors[0], tensors[-1]):
        tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), None
    call = main.operators[operator.index]
    call.inputs = np.array([-1 if index < 0 else kept.index(index) for index in operator.inputs], np.int32)
    call.outputs = np.array([len(tensors) - 1], np.int32)
    main.tensors, main.operators, main.inputs, main.outputs = tensors, [call], call.inputs[:1], call.outputs
    tables.subgraphs, tables.signatureDefs, tables.metadata = [main], None, None
    return write_tables(tables, path)


def _info(tensor: Tensor) -> TensorInfo:
    return TensorInfo(f"t{tensor.index}", tensor.shape, tensor.dtype)
