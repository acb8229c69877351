"""LOG_SOFTMAX, L2_NORMALIZATION, ARG_MAX, ARG_MIN and CUMSUM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgecompile.backends.tvm.lowerings.calls import emit
from edgecompile.backends.tvm.lowerings.movement import constant
from edgecompile.backends.tvm.operators import rows as operators
from edgecompile.backends.tvm.operators.softmax import exponentials
from edgecompile.backends.tvm.plan import Step
from edgecompile.backends.tvm.schedules import plain
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

# In a row: whose exponentials, with 19 fractional bits, and whose squares int32 holds.
_MOST, _MOST_SQUARES = 4095, 33025


def normalized(planner: Planner, operator: Operator) -> None:
    """Bytes as LiteRT's reference kernels have it in either mode: XNNPACK has no kernels for these."""
    x, into = planner.value(operator.inputs[0]), planner.range(operator.outputs[0])
    size = math.prod(x.stored[:-1]), x.stored[-1], x.shape[-1]
    log = operator.name == "LOG_SOFTMAX"
    constants: tuple[Array, ...] = ()
    if x.dtype == "float32":
        function = (operators.log_softmax if log else operators.of_length_1)(*size)
    elif x.of is None or into is None or x.dtype == "int16" or x.shape[-1] > (_MOST if log else _MOST_SQUARES):
        raise planner.unsupported(operator, f"of {x.dtype} {list(x.shape)}")
    elif log:
        function = operators.log_softmax_of_bytes(*size, x.of.scale, into)
        constants = exponentials(x.of.scale, 1.0), operators.differences(x.of.scale)
    else:
        unsigned = planner.tensor(operator.inputs[0]).dtype == "uint8"
        function = operators.bytes_of_length_1(*size, x.of.zero, into, unsigned)
    scheduled, note = plain.as_it_is(function)
    output = planner.output(operator.outputs[0])
    planner.emit(Step(scheduled, (x, *constants, output), (output,), (operator.index,), note))


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
