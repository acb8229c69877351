"""Operators that only put elements elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import tirx

from edgecompile.backends.tvm.arithmetic import Expr, f32, i32, rounded
from edgecompile.backends.tvm.lowerings.calls import emit, moved
from edgecompile.backends.tvm.operators.pointwise import Indices, indexed
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def reshape(planner: Planner, operator: Operator) -> None:
    planner.alias(operator.outputs[0], planner.whole(operator.inputs[0]))


def transpose(planner: Planner, operator: Operator) -> None:
    order = [int(axis) for axis in _constant(planner, operator, 1)]
    back = [order.index(axis) for axis in range(len(order))]
    moved(planner, operator, operator.inputs[:1], lambda x, at: x[0][tuple(at[axis] for axis in back)])


def strided_slice(planner: Planner, operator: Operator) -> None:
    begin, end, strides = (np.ravel(_constant(planner, operator, number)) for number in (1, 2, 3))
    options, sizes = operator.options, planner.tensor(operator.inputs[0]).shape
    masks = {
        name: int(options.get(f"{name}_mask", 0)) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    if masks["ellipsis"] or masks["new_axis"]:
        raise planner.unsupported(operator, "it makes new axes")
    taken: list[tuple[int, int] | int] = []
    for axis, size in enumerate(sizes):
        if axis >= len(begin):
            taken.append((0, 1))
        elif masks["shrink_axis"] >> axis & 1:
            taken.append(int(begin[axis]) % size)
        else:
            first = None if masks["begin"] >> axis & 1 else int(begin[axis])
            last = None if masks["end"] >> axis & 1 else int(end[axis])
            start, _, step = slice(first, last, int(strides[axis])).indices(size)
            taken.append((start, step))
    _taken(planner, operator, taken)


def sliced(planner: Planner, operator: Operator) -> None:
    begin = np.ravel(_constant(planner, operator, 1))
    _taken(planner, operator, [(int(first), 1) for first in begin])


def _taken(planner: Planner, operator: Operator, taken: Sequence[tuple[int, int] | int]) -> None:
    """taken: of each axis (first, step), or the only one, which leaves no axis."""

    def of(x: list[Any], at: Indices) -> Expr:
        left = iter(at)
        return x[0][tuple(i32(t) if isinstance(t, int) else t[0] + next(left) * t[1] for t in taken)]

    moved(planner, operator, operator.inputs[:1], of)


def split(planner: Planner, operator: Operator) -> None:
    """SPLIT and SPLIT_V: one step an output."""
    plain = operator.name == "SPLIT"
    x = operator.inputs[1 if plain else 0]
    rank = len(planner.tensor(x).shape)
    axis, first = int(np.ravel(_constant(planner, operator, 0 if plain else 2))[0]) % rank, 0
    for number, output in enumerate(operator.outputs):

        def of(placed: list[Any], at: Indices, first: int = first) -> Expr:
            return placed[0][_replaced(at, axis, at[axis] + first)]

        moved(planner, operator, [x], of, number)
        first += planner.tensor(output).shape[axis]


def concatenate(planner: Planner, operator: Operator) -> None:
    """Bytes of other scales than the output's are rounded, as LiteRT does where they are unsigned."""
    output = operator.outputs[0]
    axis = operator.options["axis"] % len(planner.tensor(output).shape)
    into = planner.range(output, operator.options["fused_activation_function"])
    starts = np.cumsum([0, *(planner.tensor(index).shape[axis] for index in operator.inputs)])

    def element(x: Any, number: int, at: Indices) -> Expr:
        value = x[_replaced(at, axis, at[axis] - int(starts[number]))]
        of = planner.range(operator.inputs[number])
        if of is None or into is None or (of.scale, of.zero) == (into.scale, into.zero):
            return value
        return rounded((value.astype("int32") - i32(of.zero)).astype("float32") * f32(of.scale / into.scale), into)

    def of(x: list[Any], at: Indices) -> Expr:
        found = element(x[-1], len(x) - 1, at)
        for number in reversed(range(len(x) - 1)):
            found = tirx.if_then_else(at[axis] < int(starts[number + 1]), element(x[number], number, at), found)
        return found

    moved(planner, operator, operator.inputs, of)


def pack(planner: Planner, operator: Operator) -> None:
    axis = operator.options["axis"] % len(planner.tensor(operator.outputs[0]).shape)

    def of(x: list[Any], at: Indices) -> Expr:
        rest = (*at[:axis], *at[axis + 1 :]) or (i32(0),)
        found = x[-1][rest]
        for number in reversed(range(len(x) - 1)):
            found = tirx.if_then_else(at[axis] == number, x[number][rest], found)
        return found

    moved(planner, operator, operator.inputs, of)


def pad(planner: Planner, operator: Operator) -> None:
    """PAD, with what stands for 0, and PADV2."""
    before = _constant(planner, operator, 1)[:, 0]
    x = operator.inputs[0]
    sizes, kept = planner.tensor(x).shape, planner.range(x)
    fill: float = 0 if kept is None else kept.zero
    if operator.name == "PADV2":
        fill = np.ravel(_constant(planner, operator, 2))[0].item() + planner.shift(x)

    def of(placed: list[Any], at: Indices) -> Expr:
        own = [index - int(first) for index, first in zip(at, before, strict=True)]
        inside = [tirx.all(index >= 0, index < size) for index, size in zip(own, sizes, strict=True)]
        return tirx.if_then_else(tirx.all(*inside), placed[0][tuple(own)], tirx.const(fill, planner.dtype(x)))

    moved(planner, operator, [x], of)


def gather(planner: Planner, operator: Operator) -> None:
    """An index out of range, which LiteRT refuses while it runs, takes the nearest one: no memory of others is read."""
    x, indices = (planner.operand(index) for index in operator.inputs)
    if operator.options.get("batch_dims", 0):
        raise planner.unsupported(operator, "it has batch dimensions")
    shape, given = planner.tensor(operator.inputs[0]).shape, planner.tensor(operator.inputs[1]).shape
    axis = operator.options["axis"] % len(shape)

    def of(placed: list[Any], at: Indices) -> Expr:
        chosen = placed[1][tuple(at[axis : axis + len(given)]) or (i32(0),)].astype("int32")
        safe = tirx.max(tirx.min(chosen, i32(shape[axis] - 1)), i32(0))
        return placed[0][_replaced(at, axis, safe, len(given))]

    made = planner.tensor(operator.outputs[0]).shape or (1,)
    inputs = [(shape, planner.dtype(operator.inputs[0])), (given or (1,), planner.dtype(operator.inputs[1]))]
    emit(planner, operator, (x, indices), indexed(inputs, made, of), made)


def _replaced(at: Indices, axis: int, index: Expr, many: int = 1) -> Indices:
    """Indices with `index` for the `many` that there are from `axis` on."""
    return (*at[:axis], index, *at[axis + many :])


def _constant(planner: Planner, operator: Operator, number: int) -> Array:
    found = planner.constant(operator.inputs[number])
    if found is None:
        raise planner.unsupported(operator, f"its input {number} is computed while it runs")
    return found


LOWERINGS = {
    "RESHAPE": reshape, "SQUEEZE": reshape, "EXPAND_DIMS": reshape, "TRANSPOSE": transpose,
    "STRIDED_SLICE": strided_slice, "SLICE": sliced, "SPLIT": split, "SPLIT_V": split,
    "CONCATENATION": concatenate, "PACK": pack, "PAD": pad, "PADV2": pad, "GATHER": gather,
}  # fmt: skip
