"""Comparisons, what truth values make of each other, and choices by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx

from edgecompile.backends.tvm.arithmetic import Expr, Range, i32, multiplier, scaled
from edgecompile.backends.tvm.lowerings.calls import each
from edgecompile.backends.tvm.operators.pointwise import truth
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

Lowering = Callable[["Planner", Operator], None]
_ADDED = 8  # bits by which LiteRT shifts bytes to the left before it compares what they stand for


def _compared(of: Callable[[Expr, Expr], Expr]) -> Lowering:
    def lower(planner: Planner, operator: Operator) -> None:
        first, second = (planner.range(index) for index in operator.inputs)
        if first is not None and second is not None and (first.scale, first.zero) != (second.scale, second.zero):
            if "int16" in (first.dtype, second.dtype):
                raise planner.unsupported(operator, "on int16 of two scales")
            one, two = first, second
            each(planner, operator, operator.inputs, lambda a, b: truth(of(_real(a, one), _real(b, two))))
        else:
            each(planner, operator, operator.inputs, lambda a, b: truth(of(a, b)))

    return lower


def _real(value: Expr, of: Range) -> Expr:
    m, shift = multiplier(of.scale)
    return scaled((value.astype("int32") - i32(of.zero)) << i32(_ADDED), i32(m), i32(shift))


def _logical(of: Callable[..., Expr]) -> Lowering:
    return lambda planner, operator: each(planner, operator, operator.inputs, of)


def select(planner: Planner, operator: Operator) -> None:
    """SELECT, of tensors of one shape, and SELECT_V2."""
    ranges = {planner.range(index) for index in (*operator.inputs[1:], operator.outputs[0])}
    if len(ranges) > 1:
        raise planner.unsupported(operator, "on integers of two scales")
    shapes = {planner.tensor(index).shape for index in operator.inputs}
    if operator.name == "SELECT" and len(shapes) > 1:
        raise planner.unsupported(operator, f"on {sorted(shapes)}")
    zero = tirx.const(0, "uint8")
    each(planner, operator, operator.inputs, lambda chosen, a, b: tirx.Select(tirx.NE(chosen, zero), a, b))


LOWERINGS: dict[str, Lowering] = {
    "EQUAL": _compared(lambda a, b: tirx.EQ(a, b)),
    "NOT_EQUAL": _compared(lambda a, b: tirx.NE(a, b)),
    "LESS": _compared(lambda a, b: a < b),
    "LESS_EQUAL": _compared(lambda a, b: a <= b),
    "GREATER": _compared(lambda a, b: a > b),
    "GREATER_EQUAL": _compared(lambda a, b: a >= b),
    "LOGICAL_AND": _logical(lambda a, b: a & b),
    "LOGICAL_OR": _logical(lambda a, b: a | b),
    "LOGICAL_NOT": _logical(lambda a: a ^ tirx.const(1, "uint8")),
    "SELECT": select,
    "SELECT_V2": select,
}
