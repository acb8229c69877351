"""Operators that only put elements elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import tirx

from edgecompile.backends.tvm.arithmetic import Expr, f32, i32, rounded
from edgecompile.backends.tvm.lowerings.calls import emit, moved
from edgecompile.backends.tvm.operators.pointwise import Indices, indexed
from edgecompile.backends.tvm.plan import Padded
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def reshape(planner: Planner, operator: Operator) -> None:
    planner.alias(operator.outputs[0], planner.whole(operator.inputs[0]))


def transpose(planner: Planner, operator: Operator) -> None:
    order = [int(axis) for axis in constant(planner, operator, 1)]
    back = [order.index(axis) for axis in range(len(order))]
    moved(planner, operator, operator.inputs[:1], lambda x, at: x[0][tuple(at[axis] for axis in back)])


def strided_slice(planner: Planner, operator: Operator) -> None:
    begin, end, strides = (np.ravel(constant(planner, operator, number)) for number in (1, 2, 3))
    options, sizes = operator.options, planner.tensor(operator.inputs[0]).shape

    def masked(name: str, at: int) -> bool:
        return bool(int(options.get(f"{name}_mask", 0)) >> at & 1)

    # One entry for each axis of the input and each new axis: where it is in the operator's own list, if it is.
    listed: list[int | None] = list(range(len(begin)))
    fresh = sum(masked("new_axis", at) and not masked("ellipsis", at) for at in listed if at is not None)
    dots = next((at for at in range(len(begin)) if masked("ellipsis", at)), len(begin))
    missing = len(sizes) - (len(begin) - fresh - (dots < len(begin)))
    listed[dots : dots + 1] = [None] * missing
    taken: list[tuple[int, int] | int | None] = []
    for at in listed:
        axis = len(taken) - sum(each is None for each in taken)
        if at is None:
            taken.append((0, 1))
        elif masked("new_axis", at):
            taken.append(None)
        elif masked("shrink_axis", at):
            taken.append(int(begin[at]) % sizes[axis])
        else:
            first = None if masked("begin", at) else int(begin[at])
            last = None if masked("end", at) else int(end[at])
            start, _, step = slice(first, last, int(strides[at])).indices(sizes[axis])
            taken.append((start, step))
    _taken(planner, operator, taken)


def sliced(planner: Planner, operator: Operator) -> None:
    begin = np.ravel(constant(planner, operator, 1))
    _taken(planner, operator, [(int(first), 1) for first in begin])


def _taken(planner: Planner, operator: Operator, taken: Sequence[tuple[int, int] | int | None]) -> None:
    """taken: of each axis (first, step), or the only one, which leaves no axis; None for an axis that is new."""

    def of(x: list[Any], at: Indices) -> Expr:
        left, places = iter(at), []
        for each in taken:
            if each is None:
                next(left)
            else:
                places.append(i32(each) if isinstance(each, int) else each[0] + next(left) * each[1])
        return x[0][tuple(places)]

    moved(planner, operator, operator.inputs[:1], of)


def split(planner: Planner, operator: Operator) -> None:
    """SPLIT and SPLIT_V: one step an output."""
    plain = operator.name == "SPLIT"
    x = operator.inputs[1 if plain else 0]
    rank = len(planner.tensor(x).shape)
    axis, first = int(np.ravel(constant(planner, operator, 0 if plain else 2))[0]) % rank, 0
    for number, output in enumerate(operator.outputs):

        def of(placed: list[Any], at: Indices, first: int = first) -> Expr:
            return placed[0][replaced(at, axis, at[axis] + first)]

        moved(planner, operator, [x], of, number)
        first += planner.tensor(output).shape[axis]


def concatenate(planner: Planner, operator: Operator) -> None:
    """Bytes of other scales than the output's are rounded, as LiteRT does where they are unsigned."""
    output = operator.outputs[0]
    axis = operator.options["axis"] % len(planner.tensor(output).shape)
    into = planner.range(output, operator.options["fused_activation_function"])
    starts = np.cumsum([0, *(planner.tensor(index).shape[axis] for index in operator.inputs)])

    def element(x: Any, number: int, at: Indices) -> Expr:
        value = x[replaced(at, axis, at[axis] - int(starts[number]))]
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
    before = constant(planner, operator, 1)[:, 0]
    x = operator.inputs[0]
    if _of_a_convolution(planner, operator):
        return
    sizes, kept = planner.tensor(x).shape, planner.range(x)
    fill: float = 0 if kept is None else kept.zero
    if operator.name == "PADV2":
        fill = np.ravel(constant(planner, operator, 2))[0].item() + planner.shift(x)

    def of(placed: list[Any], at: Indices) -> Expr:
        own = [index - int(first) for index, first in zip(at, before, strict=True)]
        inside = [tirx.all(index >= 0, index < size) for index, size in zip(own, sizes, strict=True)]
        return tirx.if_then_else(tirx.all(*inside), placed[0][tuple(own)], tirx.const(fill, planner.dtype(x)))

    moved(planner, operator, [x], of)


def _of_a_convolution(planner: Planner, operator: Operator) -> bool:
    """Whether the operator behind a PAD alone reads it, and can see the zeros itself."""
    x, output = operator.inputs[0], operator.outputs[0]
    reader, around = planner.only_reader(output), constant(planner, operator, 1)
    if operator.name != "PAD" or reader is None or reader.name not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return False
    of, into = planner.range(x), planner.range(output)
    alike = (of is None and into is None) or (of is not None and into is not None and of == into)
    rows = len(around) == 4 and not around[[0, 3]].any() and (around >= 0).all()
    if reader.options["padding"] != "VALID" or not alike or not rows or planner.constant(x) is not None:
        return False
    (top, bottom), (left, right) = around[1:3].tolist()
    planner.pad(output, Padded(x, ((top, bottom), (left, right)), (operator.index,)))
    return True


def gather(planner: Planner, operator: Operator) -> None:
    """An index out of range, which LiteRT refuses while it runs, takes the nearest one: no memory of others is read."""
    x, indices = (planner.operand(index) for index in operator.inputs)
    shape, given = planner.tensor(operator.inputs[0]).shape, planner.tensor(operator.inputs[1]).shape
    axis, batch = operator.options["axis"] % len(shape), operator.options.get("batch_dims", 0)
    batch %= len(given) or 1
    many = len(given) - batch

    def of(placed: list[Any], at: Indices) -> Expr:
        chosen = placed[1][(*at[:batch], *at[axis : axis + many]) or (i32(0),)]
        return placed[0][replaced(at, axis, within(chosen, shape[axis]), many)]

    made = planner.tensor(operator.outputs[0]).shape or (1,)
    inputs = [(shape, planner.dtype(operator.inputs[0])), (given or (1,), planner.dtype(operator.inputs[1]))]
    emit(planner, operator, (x, indices), indexed(inputs, made, of), made)


def within(index: Expr, size: int) -> Expr:
    """The nearest index that there is."""
    return tirx.max(tirx.min(index.astype("int32"), i32(size - 1)), i32(0))


def replaced(at: Indices, axis: int, index: Expr, many: int = 1) -> Indices:
    """Indices with `index` for the `many` that there are from `axis` on."""
    return (*at[:axis], index, *at[axis + many :])


def constant(planner: Planner, operator: Operator, number: int) -> Array:
    """The elements of an input that has to be known now."""
    found = planner.constant(operator.inputs[number])
    if found is None:
        raise planner.unsupported(operator, f"its input {number} is computed while it runs")
    return found


LOWERINGS = {
    "RESHAPE": reshape, "SQUEEZE": reshape, "EXPAND_DIMS": reshape, "TRANSPOSE": transpose,
    "STRIDED_SLICE": strided_slice, "SLICE": sliced, "SPLIT": split, "SPLIT_V": split,
    "CONCATENATION": concatenate, "PACK": pack, "PAD": pad, "PADV2": pad, "GATHER": gather,
}  # fmt: skip
