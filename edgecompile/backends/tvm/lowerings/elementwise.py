"""Operators on elements, and those that only give memory another shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx

from edgecompile.backends.tvm.arithmetic import Expr, f32
from edgecompile.backends.tvm.epilogues import Addition, activated, added
from edgecompile.backends.tvm.operators.pointwise import dequantized, pointwise, quantized
from edgecompile.backends.tvm.plan import Step
from edgecompile.backends.tvm.schedules import plain
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def reshape(planner: Planner, operator: Operator) -> None:
    planner.alias(operator.outputs[0], planner.whole(operator.inputs[0]))


def _emit(planner: Planner, operator: Operator, of: Callable[..., Expr], *, whole: bool = False) -> None:
    """A step of all inputs that are computed. whole: without padding channels, since shapes differ."""
    values = [planner.whole(i) if whole else planner.value(i) for i in operator.inputs]
    if len({value.stored for value in values}) > 1 and not whole:
        return _emit(planner, operator, of, whole=True)
    shape = values[0].stored if not whole else planner.tensor(operator.outputs[0]).shape
    function = pointwise([(value.stored, value.dtype) for value in values], shape, of)
    scheduled, note = plain.pointwise(function, planner.isa.lanes, planner.threads)
    output = planner.output(operator.outputs[0], shape)
    planner.emit(Step(scheduled, (*values, output), (output,), (operator.index,), note))
    return None


def add(planner: Planner, operator: Operator) -> None:
    activation = operator.options["fused_activation_function"]
    if any(planner.constant(index) is not None for index in operator.inputs):
        raise planner.unsupported(operator, "an input is constant")
    first, second = (planner.range(index) for index in operator.inputs)
    into = planner.range(operator.outputs[0], activation)
    if first is None or second is None or into is None:
        _emit(planner, operator, lambda a, b: activated(a + b, activation))
        return
    of = Addition(first, second, into)
    _emit(planner, operator, lambda a, b: added(a, b, of, planner.mode))


def quantize(planner: Planner, operator: Operator) -> None:
    into, of = planner.range(operator.outputs[0]), planner.range(operator.inputs[0])
    assert into is not None
    if of is None:
        _emit(planner, operator, lambda a: quantized(a, into))
    else:
        _emit(planner, operator, lambda a: quantized(dequantized(a, of), into))


def dequantize(planner: Planner, operator: Operator) -> None:
    of = planner.range(operator.inputs[0])
    if of is None:
        raise planner.unsupported(operator, "its input is no int8 or uint8")
    _emit(planner, operator, lambda a: dequantized(a, of))


def _float_only(of: Callable[[Expr], Expr]) -> Callable[[Planner, Operator], None]:
    def lower(planner: Planner, operator: Operator) -> None:
        if planner.range(operator.inputs[0]) is not None:
            raise planner.unsupported(operator, "in integers")
        _emit(planner, operator, of)

    return lower


LOWERINGS = {
    "RESHAPE": reshape, "SQUEEZE": reshape, "EXPAND_DIMS": reshape,
    "ADD": add, "QUANTIZE": quantize, "DEQUANTIZE": dequantize,
    "RELU": _float_only(lambda a: activated(a, "RELU")),
    "RELU6": _float_only(lambda a: activated(a, "RELU6")),
    "LOGISTIC": _float_only(lambda a: f32(1) / (f32(1) + tirx.exp(-a))),
    "TANH": _float_only(tirx.tanh),
}  # fmt: skip
