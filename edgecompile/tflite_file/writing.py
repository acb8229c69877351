"""Changes to a .tflite that leave what it computes as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecompile.artifact import Signature
from edgecompile.tflite_file.graph import TfliteModel

SERVING = "serving_default"


def with_signature(model: TfliteModel, names: Signature, path: Path) -> Path:
    """A copy of a file that has no signature, with one added: `serving_default`, by the names given, in the file's
    own order. Tools that go by signatures then take files from converters that wrote none."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = model.path.read_bytes()
    tables = schema.ModelT.InitFromPackedBuf(content, 0)
    signature = schema.SignatureDefT()
    signature.signatureKey = SERVING
    signature.subgraphIndex = 0
    graph = model.main
    signature.inputs = _maps(schema, [t.name for t in names.inputs], graph.inputs)
    signature.outputs = _maps(schema, [t.name for t in names.outputs], graph.outputs)
    tables.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(tables.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _maps(schema: Any, names: list[str], tensors: tuple[int, ...]) -> list[Any]:
    found = []
    for name, index in zip(names, tensors, strict=True):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        found.append(entry)
    return found
