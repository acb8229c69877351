"""LOG_SOFTMAX, L2_NORMALIZATION, ARG_MAX, ARG_MIN and CUMSUM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgecompile.backends.tvm.lowerings.calls import emit
from edgecompile.backends.tvm.lowerings.movement import constant
from edgecompile.backends.tvm.operators import rows as operators
from edgecompile.backends.tvm.plan import Step
from edgecompile.backends.tvm.schedules import plain
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def normalized(planner: Planner, operator: Operator) -> None:
    x = planner.value(operator.inputs[0])
    if x.dtype != "float32":
        raise planner.unsupported(operator, f"of {x.dtype}")
    of = operators.log_softmax if operator.name == "LOG_SOFTMAX" else operators.of_length_1
    scheduled, note = plain.as_it_is(of(math.prod(x.stored[:-1]), x.stored[-1], x.shape[-1]))
    output = planner.output(operator.outputs[0])
    planner.emit(Step(scheduled, (x, output), (output,), (operator.index,), note))


def place(planner: Planner, operator: Operator) -> None:
    x = planner.whole(operator.inputs[0])
    axis = int(np.ravel(constant(planner, operator, 1))[0]) % len(x.shape)
    into = planner.dtype(operator.outputs[0])
    function = operators.place_of(x.shape, x.dtype, axis, operator.name == "ARG_MAX", into)
    shape = planner.tensor(operator.outputs[0]).shape or (1,)
    emit(planner, operator, (x,), function, shape, scheduled=plain.as_it_is)


def running(planner: Planner, operator: Operator) -> None:
    x = planner.whole(operator.inputs[0])
    if x.of is not None:
        raise planner.unsupported(operator, f"of {x.dtype}")
    axis = int(np.ravel(constant(planner, operator, 1))[0]) % len(x.shape)
    options = operator.options
    function = operators.running(x.shape, x.dtype, axis, bool(options["exclusive"]), bool(options["reverse"]))
    emit(planner, operator, (x,), function, x.shape, scheduled=plain.as_it_is)


LOWERINGS = {
    "LOG_SOFTMAX": normalized, "L2_NORMALIZATION": normalized, "ARG_MAX": place, "ARG_MIN": place, "CUMSUM": running,
}  # fmt: skip
