"""The beginning of a model as a model of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecompile.artifact import Signature, TensorInfo
from edgecompile.tflite_file.graph import Tensor, TfliteModel
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


def _info(tensor: Tensor) -> TensorInfo:
    return TensorInfo(f"t{tensor.index}", tensor.shape, tensor.dtype)
