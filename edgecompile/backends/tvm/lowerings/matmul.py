"""BATCH_MATMUL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecompile.backends.tvm.arithmetic import FAST, Expr, clamped, i32, multiplier, rounded, scaled
from edgecompile.backends.tvm.arithmetic import f32 as real
from edgecompile.backends.tvm.lowerings.calls import described, emit
from edgecompile.backends.tvm.operators import matmul as operators
from edgecompile.backends.tvm.schedules import plain
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def matmul(planner: Planner, operator: Operator) -> None:
    operands = [planner.operand(index) for index in operator.inputs]
    first, second = (planner.range(index) for index in operator.inputs)
    into = planner.range(operator.outputs[0])
    a, b = described(operands)
    whole = first is not None and second is not None and into is not None
    if {a[1], b[1]} != {"float32"} and (not whole or "int16" in (a[1], b[1])):
        raise planner.unsupported(operator, f"of {a[1]} and {b[1]}")

    def finish(total: Expr) -> Expr:
        if first is None or second is None or into is None:
            return total
        scale = first.scale * second.scale / into.scale
        if planner.mode == FAST:
            return rounded(total.astype("float32") * real(scale), into)
        m, shift = multiplier(scale)
        return clamped(scaled(total, i32(m), i32(shift)), into)

    shape = planner.tensor(operator.outputs[0]).shape
    adjoint = bool(operator.options.get("adj_x")), bool(operator.options.get("adj_y"))
    zeros = 0 if first is None else first.zero, 0 if second is None else second.zero
    function = operators.matmul(a, b, adjoint, zeros, shape[:-2], finish)
    emit(planner, operator, operands, function, shape, scheduled=plain.matmul)


LOWERINGS = {"BATCH_MATMUL": matmul}
