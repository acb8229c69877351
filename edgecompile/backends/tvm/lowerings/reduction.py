"""MEAN, SUM, REDUCE_MAX and REDUCE_MIN."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from tvm import tirx

from edgecompile.backends.tvm.arithmetic import (
    FAST,
    Expr,
    Range,
    away_from_0,
    clamped,
    f32,
    f64,
    i32,
    multiplier,
    rounded,
    scaled,
)
from edgecompile.backends.tvm.lowerings.calls import emit
from edgecompile.backends.tvm.lowerings.pooling import pooled
from edgecompile.backends.tvm.operators import reduction
from edgecompile.backends.tvm.operators.window import Window
from edgecompile.backends.tvm.schedules import plain
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

_MOST_OF_16_BITS = 1 << 15  # whose sum int32 holds
_KINDS = {"MEAN": "sum", "SUM": "sum", "REDUCE_MAX": "max", "REDUCE_MIN": "min"}


def reduce(planner: Planner, operator: Operator) -> None:
    axes = planner.constant(operator.inputs[1])
    if axes is None:
        raise planner.unsupported(operator, "its axes are computed while it runs")
    sizes = planner.tensor(operator.inputs[0]).shape
    over = sorted({int(axis) % len(sizes) for axis in np.ravel(axes)})
    count = math.prod(sizes[axis] for axis in over)
    of, into = planner.range(operator.inputs[0]), planner.range(operator.outputs[0])
    kind = _KINDS[operator.name]
    zero = of.zero if of is not None and kind == "sum" else 0
    # LiteRT's reference kernel gives no sums of int8 and int16: those of its other one are what there is.
    rounded_once = operator.name == "SUM" and (
        planner.mode == FAST or planner.tensor(operator.inputs[0]).dtype != "uint8"
    )
    if of is not None and rounded_once:
        zero = planner.shift(operator.inputs[0])

    def finish(total: Expr, many: Expr = None) -> Expr:
        del many
        if of is None or into is None:
            return total * f32(1 / count) if operator.name == "MEAN" else total
        if kind != "sum":
            return total.astype(into.dtype)
        if rounded_once:
            return _in_floats(total, count, dataclasses.replace(of, zero=of.zero - zero), into)
        return _scaled(total, 1 if operator.name == "SUM" else count, of, into, planner.mode)

    if of is not None and of.dtype == "int16" and count > _MOST_OF_16_BITS:
        raise planner.unsupported(operator, f"of {count} numbers of int16")
    if of is None and planner.dtype(operator.inputs[0]) != "float32":
        raise planner.unsupported(operator, f"of {planner.dtype(operator.inputs[0])}")
    if operator.name == "MEAN" and len(sizes) == 4 and over == [1, 2]:
        whole = sizes[1], sizes[2]
        pooled(planner, operator, Window(whole, (1, 1), (1, 1), (0, 0), whole, (1, 1)), zero, finish)
        return
    x = planner.whole(operator.inputs[0])
    function = reduction.over(x.stored, x.dtype, over, kind, zero, finish)
    shape = tuple(size for axis, size in enumerate(sizes) if axis not in over) or (1,)
    named = planner.tensor(operator.outputs[0]).shape
    scheduled = plain.over_last if over[-1:] == [len(sizes) - 1] else plain.over_others
    emit(planner, operator, (x,), function, named or shape, scheduled=scheduled)


def _scaled(total: Expr, count: int, of: Range, into: Range, mode: str) -> Expr:
    real = of.scale / into.scale
    if mode == FAST:
        return rounded(total.astype("float32") * f32(real / count), into)
    # The reference divides by the count inside of the multiplier, whose shift makes room for it.
    m, shift = multiplier(real)
    room = min(count.bit_length() - 1, 32, 31 + shift)
    m, shift = (m << room) // count, shift - room
    return clamped(scaled(total, i32(m), i32(shift)), into)


def _in_floats(total: Expr, count: int, of: Range, into: Range) -> Expr:
    """Of the .tflite's own integers. In float32, each step rounded by itself: float64 holds what a product, or a sum,
    of two is before it is rounded."""
    scale = np.float32(of.scale) / np.float32(into.scale)
    bias = np.float32(-of.zero) * scale * np.float32(count)
    product = (total.astype("float32").astype("float64") * f64(scale)).astype("float32")
    value = (product.astype("float64") + f64(bias)).astype("float32")
    limit = f32(1 << 30)
    kept = tirx.max(tirx.min(value, limit), -limit)
    return clamped(away_from_0(kept), into)


LOWERINGS = dict.fromkeys(_KINDS, reduce)
