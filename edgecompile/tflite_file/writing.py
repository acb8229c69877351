"""A .tflite as the schema's own objects, to be written again; changes that leave what it computes as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.artifact import Signature
from edgecompile.tflite_file.graph import TfliteModel

SERVING = "serving_default"
_LARGEST_OLD_CODE = 127


def tables_of(model: TfliteModel) -> Any:
    """The schema's ModelT of the file. Constants behind the FlatBuffers part (ai-edge-quantizer puts them there from
    256 KiB on) are taken in: their places hold for this very file only."""
    from ai_edge_litert import schema_py_generated as schema

    tables = schema.ModelT.InitFromPackedBuf(model.path.read_bytes(), 0)
    for table, data in zip(tables.buffers or [], model.buffers, strict=True):
        if table.offset > 1:
            table.data, table.offset, table.size = data, 0, 0
    return tables


def write_tables(tables: Any, path: Path) -> Path:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tables.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def with_signature(model: TfliteModel, names: Signature, path: Path) -> Path:
    """A copy with one signature, `serving_default`, by the names given, in the file's own order: those that the file
    has are replaced. Tools that go by signatures then take files from converters that wrote none, or other names."""
    from ai_edge_litert import schema_py_generated as schema

    tables = tables_of(model)
    signature = schema.SignatureDefT()
    signature.signatureKey = SERVING
    signature.subgraphIndex = 0
    graph = model.main
    signature.inputs = _maps(schema, [t.name for t in names.inputs], graph.inputs)
    signature.outputs = _maps(schema, [t.name for t in names.outputs], graph.outputs)
    tables.signatureDefs = [signature]
    return write_tables(tables, path)


def spelt_out(model: TfliteModel, path: Path) -> Path:
    """A copy with what some files lack and some tools can't do without: a name for every tensor, and the field for an
    operator's code that older versions of the schema had. Files that `slim` has written have both."""
    tables = tables_of(model)
    for code in tables.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)  # older files have that one alone
        code.deprecatedBuiltinCode = min(code.builtinCode, _LARGEST_OLD_CODE)
    for graph in tables.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name or f"tensor_{number}".encode()
    return write_tables(tables, path)


def in_order(model: TfliteModel, names: Signature, path: Path) -> Path:
    """A copy whose inputs and outputs stand in the order of `names`: converters sort them, and code on a device
    counts them. The file must have a signature with these names."""
    tables = tables_of(model)
    signature, graph = model.signatures[0], tables.subgraphs[0]
    graph.inputs = np.array([signature.inputs[t.name] for t in names.inputs], np.int32)
    graph.outputs = np.array([signature.outputs[t.name] for t in names.outputs], np.int32)
    return write_tables(tables, path)


def _maps(schema: Any, names: list[str], tensors: tuple[int, ...]) -> list[Any]:
    found = []
    for name, index in zip(names, tensors, strict=True):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        found.append(entry)
    return found
