"""SPLIT_V into equal parts as the SPLIT that it is: more engines and quantizers know that one.

tf-keras's GRU writes SPLIT_V for its gates, [units, units, -1], which XNNPACK doesn't take and ai-edge-quantizer leaves
in float.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecompile.tflite_file.graph import Operator, Subgraph, TfliteModel
from edgecompile.tflite_file.reading import read
from edgecompile.tflite_file.writing import tables_of, write_tables


def with_even_splits(model: TfliteModel, path: Path) -> TfliteModel:
    """The model with SPLIT for every SPLIT_V into equal parts, written to `path`; as it is where it has none."""
    found = [(graph, op) for graph in model.subgraphs for op in graph.operators if _even(model, graph, op)]
    if not found:
        return model
    from ai_edge_litert import schema_py_generated as schema

    tables = tables_of(model)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SPLIT
    code.version = 1
    tables.operatorCodes.append(code)
    for graph, op in found:
        table = tables.subgraphs[graph.index].operators[op.index]
        values, _, axis = op.inputs
        table.opcodeIndex = len(tables.operatorCodes) - 1
        table.inputs = np.array([axis, values], np.int32)
        table.builtinOptionsType = schema.BuiltinOptions.SplitOptions
        table.builtinOptions = schema.SplitOptionsT()
        table.builtinOptions.numSplits = len(op.outputs)
    return read(write_tables(tables, path))


def _even(model: TfliteModel, graph: Subgraph, op: Operator) -> bool:
    if op.name != "SPLIT_V":
        return False
    sizes = graph.tensors[op.inputs[1]]
    if graph.tensors[op.inputs[0]].dtype != "float32" or not sizes.is_constant:
        return False
    parts = model.data(sizes).ravel()
    shapes = {graph.tensors[index].shape for index in op.outputs}
    known = len(shapes) == 1 and all(size > 0 for size in next(iter(shapes)))
    return known and len({int(part) for part in parts if part >= 0}) <= 1
