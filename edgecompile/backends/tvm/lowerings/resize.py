"""RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecompile.backends.tvm.lowerings.calls import emit
from edgecompile.backends.tvm.operators import resize as operators
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def resize(planner: Planner, operator: Operator) -> None:
    x, made = planner.value(operator.inputs[0]), planner.tensor(operator.outputs[0]).shape
    if x.dtype not in ("float32", "int8", "uint8", "int16"):
        raise planner.unsupported(operator, f"of {x.dtype}")
    stored = (*made[:3], x.stored[3])
    sizes = [(x.shape[1], made[1]), (x.shape[2], made[2])]
    if operator.name == "RESIZE_NEAREST_NEIGHBOR":
        tables = [operators.nearest(each, operator.options) for each in sizes]
        function = operators.taken(x.stored, stored, x.dtype)
    else:
        of = operators.in_floats if x.dtype == "float32" else operators.in_integers
        axes = [of(each, operator.options) for each in sizes]
        tables = [table for axis in axes for table in (axis.lower, axis.upper, axis.part)]
        function = operators.between(x.stored, stored, x.dtype, planner.shift(operator.inputs[0]))
    emit(planner, operator, (x, *tables), function, stored)


LOWERINGS = {"RESIZE_NEAREST_NEIGHBOR": resize, "RESIZE_BILINEAR": resize}
