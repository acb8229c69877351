"""What LiteRT's reference kernel makes of each value of a byte, or of 16 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecompile.errors import ModelError
from edgecompile.loaders.interpreter import Interpreted
from edgecompile.task import Array
from edgecompile.tflite_file import alone
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

_ROOTS = ("SQRT", "RSQRT")


def table(planner: Planner, operator: Operator) -> Array:
    """[256 or 65536], by the value that is stored, the least first, as the output is stored: for an operator on the
    elements of one tensor. Of a number below 0 whose root LiteRT refuses, what it makes of 0. ModelError where LiteRT
    refuses the operator."""
    dtype, quantization = planner.tensor(operator.inputs[0]).dtype, planner.tensor(operator.inputs[0]).quantization
    limits = np.iinfo(dtype)
    values = np.arange(limits.min, limits.max + 1)
    if operator.name in _ROOTS and quantization is not None:
        values = np.maximum(values, quantization.zero_points[0])
    values = values.astype(dtype)
    with tempfile.TemporaryDirectory(prefix="edgecompile-") as folder:
        path = alone(planner.source, operator, (1, values.size), Path(folder, "operator.tflite"))
        found = _opened(path).run({"x": values[None]})["y"][0]
    shifted: Array = found.astype(np.int32) + planner.shift(operator.outputs[0])
    return shifted.astype(planner.dtype(operator.outputs[0]))


def _opened(path: Path) -> Interpreted:
    """By the reference kernels; by LiteRT's other ones where these lack the operator."""
    names = (["x"], ["y"])
    try:
        return Interpreted(path, names, resolver="BUILTIN_REF")
    except ModelError:
        return Interpreted(path, names, resolver="BUILTIN_WITHOUT_DEFAULT_DELEGATES")
