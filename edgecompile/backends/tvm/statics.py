"""What no input changes is computed before compiling: shapes, and constants of constants (float16 weights widened)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from edgecompile.errors import ModelError
from edgecompile.tflite_file import TfliteModel
from edgecompile.tflite_file.graph import BITS, Operator

# Each run of these gives something else.
_RANDOM = ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")


def folded(model: TfliteModel) -> TfliteModel:
    """The model with all sizes known, and without the operators of which LiteRT has given the outcome here."""
    graph = model.main
    static = {tensor.index for tensor in graph.tensors if tensor.is_constant}
    left: list[Operator] = []
    for operator in graph.operators:
        given = [index for index in operator.inputs if index >= 0]
        fixed = operator.name == "SHAPE" or (bool(given) and static.issuperset(given))
        plain = all(graph.tensors[index].dtype in BITS for index in operator.outputs)
        if fixed and plain and not operator.custom and operator.name not in _RANDOM:
            static.update(operator.outputs)
        else:
            left.append(operator)
    if len(left) == len(graph.operators):
        return model
    details, interpreter = _ran(model)
    tensors, buffers = list(graph.tensors), list(model.buffers)
    wanted = {index for operator in left for index in operator.inputs} | set(graph.outputs)
    for tensor in graph.tensors:
        found = details.get(tensor.index)
        if found is None:
            continue
        shape = tuple(int(size) for size in found["shape"])
        known = dataclasses.replace(tensor, shape=shape)
        if tensor.index in static & wanted and not tensor.is_constant:
            data = interpreter.get_tensor(tensor.index)
            known = dataclasses.replace(
                known, is_constant=True, buffer=len(buffers), buffer_size=data.nbytes, dtype=data.dtype.name
            )
            buffers.append(np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8))
        tensors[tensor.index] = known
    main = dataclasses.replace(graph, tensors=tuple(tensors), operators=tuple(left))
    return dataclasses.replace(model, subgraphs=(main, *model.subgraphs[1:]), buffers=tuple(buffers))


def _ran(model: TfliteModel) -> tuple[dict[int, Any], Any]:
    """({tensor: LiteRT's details}, the interpreter), after a run on zeros."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            str(model.path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        interpreter.invoke()
    except (ValueError, RuntimeError) as problem:
        raise ModelError(f"LiteRT can't run {model.path}: {str(problem).strip().splitlines()[0]}") from problem
    return {int(detail["index"]): detail for detail in interpreter.get_tensor_details()}, interpreter
