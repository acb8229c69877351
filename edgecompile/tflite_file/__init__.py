"""The .tflite format as a typed graph: `read(path)` validates all of a file, then gives plain dataclasses.

graph.py       the dataclasses, and what can be computed from them (constants, MACs, sparsity, signature)
structure.py   bounds of every FlatBuffers table, vector and string
reading.py     bytes -> dataclasses, through the schema that ships with LiteRT
writing.py     the names of inputs and outputs (a signature), and the order of inputs and outputs
checks.py      indices, quantization parameters, sizes of constants, order of operators
"""

from edgecompile.tflite_file.graph import (
    NamedSignature,
    Operator,
    Quantization,
    Sparsity,
    Subgraph,
    Tensor,
    TfliteModel,
)
from edgecompile.tflite_file.reading import read
from edgecompile.tflite_file.writing import in_order, with_signature

__all__ = [
    "NamedSignature",
    "Operator",
    "Quantization",
    "Sparsity",
    "Subgraph",
    "Tensor",
    "TfliteModel",
    "in_order",
    "read",
    "with_signature",
]
