"""What lowerings of plain operators share: their operands, and a step of one scheduled function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgecompile.backends.tvm.arithmetic import Expr
from edgecompile.backends.tvm.operators.pointwise import Indices, indexed, pointwise
from edgecompile.backends.tvm.plan import Step, Value
from edgecompile.backends.tvm.schedules import plain
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

Operand = Value | Array


def described(operands: Sequence[Operand]) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and types, as functions take them."""
    return [(o.stored, o.dtype) if isinstance(o, Value) else (o.shape, o.dtype.name) for o in operands]


def each(planner: Planner, operator: Operator, inputs: Sequence[int], of: Callable[..., Expr]) -> None:
    """A step on all elements of these inputs, which broadcast. of: (elements) -> element."""
    operands, shape = alike(planner, operator, inputs)
    emit(planner, operator, operands, pointwise(described(operands), shape, of), shape)


def moved(
    planner: Planner,
    operator: Operator,
    inputs: Sequence[int],
    of: Callable[[list[Any], Indices], Expr],
    output: int = 0,
) -> None:
    """A step that makes each element of an output of any of the inputs'. of: (inputs, indices) -> element."""
    operands = [planner.operand(index) for index in inputs]
    shape = planner.tensor(operator.outputs[output]).shape or (1,)
    emit(planner, operator, operands, indexed(described(operands), shape, of), shape, output)


def emit(
    planner: Planner,
    operator: Operator,
    operands: Sequence[Operand],
    function: Any,
    shape: tuple[int, ...],
    output: int = 0,
    scheduled: Callable[..., tuple[Any, str]] = plain.pointwise,
    front: Operator | None = None,
) -> None:
    """front: the operator before this one, which is part of the step too."""
    made, note = scheduled(function, planner.isa.lanes, planner.threads)
    value = planner.output(operator.outputs[output], shape)
    planner.emit(Step(made, (*operands, value), (value,), (*((front.index,) if front else ()), operator.index), note))


def alike(planner: Planner, operator: Operator, inputs: Sequence[int]) -> tuple[list[Operand], tuple[int, ...]]:
    """(operands, shape of the output in memory): with padding channels where all have the same ones."""
    shape = planner.tensor(operator.outputs[0]).shape
    values = [planner.value(index) for index in inputs if planner.constant(index) is None]
    ends = {(len(value.shape), value.shape[-1:], value.stored[-1:]) for value in values}
    scalars = all(c is None or c.size == 1 for c in (planner.constant(index) for index in inputs))
    if len(ends) == 1 and scalars and len(shape) == len(values[0].shape) and shape[-1:] == values[0].shape[-1:]:
        operands = [planner.value(i) if planner.constant(i) is None else planner.operand(i) for i in inputs]
        return operands, (*shape[:-1], *values[0].stored[-1:])
    return [planner.operand(index) for index in inputs], shape or (1,)
