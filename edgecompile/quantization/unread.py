"""Results that nothing reads, of operators with several.

ai-edge-quantizer gives a tensor its type by what writes and what reads it, and leaves one that nothing reads in float,
while the operator's other results are integers: a SPLIT of the gates of an unrolled LSTM, say, whose first step has
no use for the forget gate. LiteRT refuses such an operator.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from edgecompile.tflite_file import Subgraph, TfliteModel, read, tables_of, write_tables

_INTEGERS = ("int8", "int16")


def mend_unread(result: TfliteModel) -> TfliteModel:
    """`result`, quantized, written anew where results that nothing reads are float32 and others of the same operator
    are integers: they get the type, scale and zero point of the first of these."""
    wrong = [(graph.index, index, like) for graph in result.subgraphs for index, like in _left_in_float(graph)]
    if not wrong:
        return result
    tables = tables_of(result)
    for graph, index, like in wrong:
        tensors = tables.subgraphs[graph].tensors
        tensors[index].type = tensors[like].type
        tensors[index].quantization = copy.deepcopy(tensors[like].quantization)
    return read(write_tables(tables, result.path))


def _left_in_float(graph: Subgraph) -> Iterator[tuple[int, int]]:
    """(tensor left in float, a result of the same operator that isn't)."""
    read_ones = {index for operator in graph.operators for index in operator.inputs} | set(graph.outputs)
    for operator in graph.operators:
        integers = [i for i in operator.outputs if i >= 0 and graph.tensors[i].dtype in _INTEGERS]
        if integers:
            for index in operator.outputs:
                if index >= 0 and index not in read_ones and graph.tensors[index].dtype == "float32":
                    yield index, integers[0]
