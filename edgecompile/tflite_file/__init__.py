"""The .tflite format as a typed graph: `read(path)` validates all of a file, then gives plain dataclasses.

graph.py       the dataclasses, and what can be computed from them (constants, MACs, sparsity, signature)
structure.py   bounds of every FlatBuffers table, vector and string
reading.py     bytes -> dataclasses, through the schema that ships with LiteRT
writing.py     the schema's own objects, changed and written again: names, a signature, the order of inputs and outputs
slimming.py    the same model in fewer bytes; layout.py: a FlatBuffers writer that stores equal parts once
parts.py       what names, quantization, constants, metadata and the rest take in a file
even_splits.py SPLIT for SPLIT_V, where the parts are equal
cutting.py     the beginning of a model, or one operator, as a model of its own
state.py       what it keeps from run to run, and an interpreter without that
checks.py      indices, quantization parameters, sizes of constants, order of operators
"""

from edgecompile.tflite_file.cutting import alone, cut
from edgecompile.tflite_file.even_splits import with_even_splits
from edgecompile.tflite_file.graph import (
    NamedSignature,
    Operator,
    Quantization,
    Sparsity,
    Subgraph,
    Tensor,
    TfliteModel,
)
from edgecompile.tflite_file.parts import bytes_by_part
from edgecompile.tflite_file.reading import read
from edgecompile.tflite_file.slimming import Slimmed, slim
from edgecompile.tflite_file.state import Forgetful, state_of
from edgecompile.tflite_file.writing import in_order, spelt_out, tables_of, with_signature, write_tables

__all__ = [
    "Forgetful",
    "NamedSignature",
    "Operator",
    "Quantization",
    "Slimmed",
    "Sparsity",
    "Subgraph",
    "Tensor",
    "TfliteModel",
    "alone",
    "bytes_by_part",
    "cut",
    "in_order",
    "read",
    "slim",
    "spelt_out",
    "state_of",
    "tables_of",
    "with_even_splits",
    "with_signature",
    "write_tables",
]
