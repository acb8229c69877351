"""What tf2onnx does wrongly, or leaves undone, put right in the graph that it made."""

from __future__ import annotations

import itertools
import math
from typing import Any

from edgecompile.tflite_file import TfliteModel

_BIAS = 2  # the input of FULLY_CONNECTED that holds it


def give_back_biases(graph: Any, file: TfliteModel) -> None:
    """The bias of a FULLY_CONNECTED that flattens its input: tf2onnx 1.17 drops it."""
    from onnx import helper, numpy_helper

    tensors = file.main.tensors
    widths = {each.name: each.dims[-1] for each in graph.initializer if each.dims}
    made = {node.output[0]: index for index, node in enumerate(graph.node)}
    sums = []
    for operator in file.main.operators:
        if operator.name != "FULLY_CONNECTED" or len(operator.inputs) <= _BIAS or operator.inputs[_BIAS] < 0:
            continue
        bias, name = tensors[operator.inputs[_BIAS]], tensors[operator.outputs[0]].name
        index = made.get(name)
        if index is None or graph.node[index].op_type != "MatMul" or not bias.buffer_size:
            continue
        beside = [word for node in graph.node if node.op_type == "Add" and name in node.input for word in node.input]
        if any(widths.get(word) == bias.elements for word in beside):
            continue
        product, constant = f"{name}_product", f"{name}_bias"
        graph.node[index].output[0] = product
        graph.initializer.append(numpy_helper.from_array(file.data(bias), constant))
        sums.append((index + 1, helper.make_node("Add", [product, constant], [name], name=f"{name}_sum")))
    for index, node in sorted(sums, key=lambda each: each[0], reverse=True):
        graph.node.insert(index, node)


def spell_out_gelu(graph: Any) -> None:
    """TFLite's GELU, which tf2onnx leaves as it is and ONNX has only from opset 20, by its definition.

    Exact: x / 2 * (1 + erf(x / sqrt 2)). Approximate: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
    (Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2).
    """
    import numpy as np
    from onnx import helper, numpy_helper

    nodes = []
    for number, node in enumerate(graph.node):
        if node.op_type != "TFL_GELU":
            nodes.append(node)
            continue
        names = (f"gelu_{number}_{index}" for index in itertools.count())

        def constant(value: float, name: str) -> str:
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
            return name

        def op(kind: str, *inputs: str, output: str) -> str:
            nodes.append(helper.make_node(kind, inputs, [output], name=output))
            return output

        x = node.input[0]
        if any(each.name == "approximate" and each.i for each in node.attribute):
            cube = op("Mul", op("Mul", x, x, output=next(names)), x, output=next(names))
            small = op("Mul", cube, constant(0.044715, next(names)), output=next(names))
            inner = op("Add", x, small, output=next(names))
            scaled = op("Mul", inner, constant(math.sqrt(2 / math.pi), next(names)), output=next(names))
            bent = op("Tanh", scaled, output=next(names))
        else:
            bent = op(
                "Erf", op("Mul", x, constant(math.sqrt(0.5), next(names)), output=next(names)), output=next(names)
            )
        gate = op("Add", bent, constant(1.0, next(names)), output=next(names))
        half = op("Mul", x, constant(0.5, next(names)), output=next(names))
        op("Mul", half, gate, output=node.output[0])
    del graph.node[:]
    graph.node.extend(nodes)
