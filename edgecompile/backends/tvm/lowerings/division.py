"""DIV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.backends.tvm.arithmetic import Expr, i32, multiplier
from edgecompile.backends.tvm.epilogues import activated
from edgecompile.backends.tvm.lowerings.calls import alike, described, each, emit
from edgecompile.backends.tvm.operators.pointwise import Indices, broadcast, indexed
from edgecompile.backends.tvm.pairs import Pair, quotient_scale, quotients
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def divide(planner: Planner, operator: Operator) -> None:
    """Of bytes by a table, in either mode: XNNPACK has no kernel for them."""
    activation = operator.options.get("fused_activation_function", "NONE")
    first, second = (planner.range(index) for index in operator.inputs)
    into = planner.range(operator.outputs[0], activation)
    if planner.tensor(operator.outputs[0]).dtype == "float32":
        each(planner, operator, operator.inputs, lambda a, b: activated(a / b, activation))
        return
    if first is None or second is None or into is None or "int16" in (first.dtype, second.dtype):
        raise planner.unsupported(operator, f"on {planner.tensor(operator.inputs[0]).dtype}")
    of = Pair(first, second, into)
    _, shift = multiplier(quotient_scale(of))
    most = max(second.high - second.zero, second.zero - second.low)
    if not most.bit_length() - 1 <= shift <= 23:
        raise planner.unsupported(
            operator, "with these scales, whose quotients LiteRT shifts by more bits than there are"
        )
    operands, shape = alike(planner, operator, operator.inputs)
    least = int(np.iinfo(into.dtype).min)

    def quotient(x: list[Any], at: Indices) -> Expr:
        a, b = (broadcast(each, at).astype("int32") - i32(least) for each in x[:2])
        return x[2][b, a]

    inputs = [*operands, quotients(of)]
    emit(planner, operator, inputs, indexed(described(inputs), shape, quotient), shape)


LOWERINGS = {"DIV": divide}
