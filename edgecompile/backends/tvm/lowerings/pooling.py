"""AVERAGE_POOL_2D, MAX_POOL_2D, SOFTMAX."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from tvm import tirx

from edgecompile.backends.tvm.arithmetic import (
    REFERENCE,
    Expr,
    clamped,
    f32,
    i32,
    rounded,
)
from edgecompile.backends.tvm.epilogues import activated
from edgecompile.backends.tvm.operators import reduction, softmax16
from edgecompile.backends.tvm.operators import softmax as operators
from edgecompile.backends.tvm.operators.window import Window, window
from edgecompile.backends.tvm.plan import Step
from edgecompile.backends.tvm.schedules import plain
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def average(planner: Planner, operator: Operator) -> None:
    x, options = planner.value(operator.inputs[0]), operator.options
    activation = options["fused_activation_function"]
    shape = window(options, (x.stored[1], x.stored[2]), (options["filter_height"], options["filter_width"]))
    into, shift = planner.range(operator.outputs[0], activation), planner.shift(operator.outputs[0])

    def finish(total: Expr, count: Expr) -> Expr:
        if into is None:
            return activated(total / count.astype("float32"), activation)
        # Of the .tflite's own integers, zero point and all: halves are rounded away from their 0.
        half = count // i32(2)
        up = tirx.truncdiv(total + half, count)
        down = tirx.truncdiv(total - half, count)
        return clamped(tirx.Select(total > i32(0), up, down), dataclasses.replace(into, zero=shift))

    pooled(planner, operator, shape, shift, finish)


def maximum(planner: Planner, operator: Operator) -> None:
    x, options = planner.value(operator.inputs[0]), operator.options
    activation = options["fused_activation_function"]
    shape = window(options, (x.stored[1], x.stored[2]), (options["filter_height"], options["filter_width"]))
    into = planner.range(operator.outputs[0], activation)

    def finish(most: Expr) -> Expr:
        if into is None:
            return activated(most, activation)
        return tirx.max(tirx.min(most, tirx.const(into.high, x.dtype)), tirx.const(into.low, x.dtype))

    function = reduction.maximum(x.stored[0], x.stored[3], x.dtype, shape, finish)
    _emit(planner, operator, function)


def softmax(planner: Planner, operator: Operator) -> None:
    x, of, into = (
        planner.value(operator.inputs[0]),
        planner.range(operator.inputs[0]),
        planner.range(operator.outputs[0]),
    )
    rows, width = int(np.prod(x.stored[:-1])), x.stored[-1]
    step = 1.0 if of is None else of.scale

    def real(value: Expr) -> Expr:
        return value if of is None else value.astype("float32")

    def finish(value: Expr) -> Expr:
        return value if into is None else rounded(value * f32(1 / into.scale), into)

    beta = operator.options["beta"]
    constants: tuple[Array, ...] = ()
    if of is not None and into is not None and x.dtype == "int16":  # a table's lines are farther off than a rounding
        function = softmax16.softmax(rows, width, x.shape[-1])
        constants = softmax16.tables(of.scale, beta)
    elif of is not None and into is not None and planner.mode == REFERENCE:
        function = operators.in_fixed_point((rows, width), x.shape[-1], x.dtype, 8, into.zero)
        constants = (operators.exponentials(of.scale, beta),)
    else:
        function = operators.in_floats((rows, width), x.shape[-1], x.dtype, real, beta * step, finish)
    floats = not constants
    scheduled, note = (plain.softmax if floats else plain.as_it_is)(function, planner.isa.lanes, planner.threads)
    output = planner.output(operator.outputs[0])
    planner.emit(Step(scheduled, (x, *constants, output), (output,), (operator.index,), note))


def pooled(planner: Planner, operator: Operator, shape: Window, zero: int, finish: object) -> None:
    x = planner.value(operator.inputs[0])
    _emit(planner, operator, reduction.average(x.stored[0], x.stored[3], x.dtype, shape, zero, finish))  # type: ignore[arg-type]


def _emit(planner: Planner, operator: Operator, function: object) -> None:
    x = planner.value(operator.inputs[0])
    scheduled, note = plain.reduction(function, planner.isa.lanes)
    shape = planner.tensor(operator.outputs[0]).shape
    output = planner.output(operator.outputs[0], (*shape[:-1], x.stored[-1]))
    planner.emit(Step(scheduled, (x, output), (output,), (operator.index,), note))


LOWERINGS = {"AVERAGE_POOL_2D": average, "MAX_POOL_2D": maximum, "SOFTMAX": softmax}
