"""Operators that put elements elsewhere in blocks, or more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import tirx

from edgecompile.backends.tvm.arithmetic import Expr, i32
from edgecompile.backends.tvm.lowerings.calls import emit, moved
from edgecompile.backends.tvm.lowerings.movement import constant, within
from edgecompile.backends.tvm.operators.pointwise import Indices, indexed
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner


def unpack(planner: Planner, operator: Operator) -> None:
    axis = operator.options["axis"] % len(planner.tensor(operator.inputs[0]).shape)
    scalar = planner.tensor(operator.outputs[0]).shape == ()
    for number in range(len(operator.outputs)):

        def of(x: list[Any], at: Indices, number: int = number) -> Expr:
            left = () if scalar else at
            place = (*left[:axis], i32(number), *left[axis:])
            return x[0][place]

        moved(planner, operator, operator.inputs, of, number)


def tile(planner: Planner, operator: Operator) -> None:
    constant(planner, operator, 1)
    sizes = planner.tensor(operator.inputs[0]).shape

    def of(x: list[Any], at: Indices) -> Expr:
        return x[0][tuple(index % size for index, size in zip(at, sizes, strict=True))]

    moved(planner, operator, operator.inputs[:1], of)


def broadcast_to(planner: Planner, operator: Operator) -> None:
    sizes = planner.tensor(operator.inputs[0]).shape or (1,)

    def of(x: list[Any], at: Indices) -> Expr:
        own = at[len(at) - len(sizes) :]
        return x[0][tuple(i32(0) if size == 1 else index for index, size in zip(own, sizes, strict=True))]

    moved(planner, operator, operator.inputs[:1], of)


def depth_to_space(planner: Planner, operator: Operator) -> None:
    block, channels = operator.options["block_size"], planner.tensor(operator.outputs[0]).shape[3]

    def of(x: list[Any], at: Indices) -> Expr:
        n, y, z, c = at
        return x[0][n, y // block, z // block, (y % block * block + z % block) * channels + c]

    moved(planner, operator, operator.inputs, of)


def space_to_depth(planner: Planner, operator: Operator) -> None:
    block, channels = operator.options["block_size"], planner.tensor(operator.inputs[0]).shape[3]

    def of(x: list[Any], at: Indices) -> Expr:
        n, y, z, c = at
        own = c // channels
        return x[0][n, y * block + own // block, z * block + own % block, c % channels]

    moved(planner, operator, operator.inputs, of)


def space_to_batch(planner: Planner, operator: Operator) -> None:
    block, pads = (constant(planner, operator, number).tolist() for number in (1, 2))
    x = operator.inputs[0]
    sizes, kept = planner.tensor(x).shape, planner.range(x)
    fill = tirx.const(0 if kept is None else kept.zero, planner.dtype(x))

    def of(placed: list[Any], at: Indices) -> Expr:
        own: Expr = at[0] // sizes[0]
        places: list[Expr] = []
        for axis in reversed(range(len(block))):
            places.insert(0, at[1 + axis] * block[axis] + own % block[axis] - pads[axis][0])
            own = own // block[axis]
        inside = [tirx.all(i >= 0, i < size) for i, size in zip(places, sizes[1:], strict=False)]
        place = (at[0] % sizes[0], *places, *at[1 + len(block) :])
        return tirx.if_then_else(tirx.all(*inside), placed[0][place], fill)

    moved(planner, operator, [x], of)


def batch_to_space(planner: Planner, operator: Operator) -> None:
    block, crops = (constant(planner, operator, number).tolist() for number in (1, 2))
    batch = planner.tensor(operator.outputs[0]).shape[0]

    def of(placed: list[Any], at: Indices) -> Expr:
        own, places = i32(0), []
        for axis, (size, (first, _)) in enumerate(zip(block, crops, strict=True)):
            whole = at[1 + axis] + first
            own = own * size + whole % size
            places.append(whole // size)
        place = (own * batch + at[0], *places, *at[1 + len(block) :])
        return placed[0][place]

    moved(planner, operator, operator.inputs[:1], of)


def mirror_pad(planner: Planner, operator: Operator) -> None:
    before, sizes = constant(planner, operator, 1)[:, 0].tolist(), planner.tensor(operator.inputs[0]).shape
    edge = 0 if operator.options["mode"] == "REFLECT" else 1

    def of(x: list[Any], at: Indices) -> Expr:
        places = []
        for index, first, size in zip(at, before, sizes, strict=True):
            own = index - first
            own = tirx.if_then_else(own < 0, -own - edge, own)
            places.append(tirx.if_then_else(own >= size, 2 * size - 2 + edge - own, own))
        return x[0][tuple(places)]

    moved(planner, operator, operator.inputs[:1], of)


def gather_nd(planner: Planner, operator: Operator) -> None:
    """Indices out of range as in GATHER."""
    x, indices = (planner.operand(index) for index in operator.inputs)
    shape, given = (planner.tensor(index).shape for index in operator.inputs)
    outer, depth = len(given) - 1, given[-1]

    def of(placed: list[Any], at: Indices) -> Expr:
        which = [(*at[:outer], i32(axis)) for axis in range(depth)]
        chosen = [within(placed[1][place], shape[axis]) for axis, place in enumerate(which)]
        taken = (*chosen, *at[outer:])
        return placed[0][taken]

    made = planner.tensor(operator.outputs[0]).shape or (1,)
    if len(planner.tensor(operator.outputs[0]).shape) != outer + len(shape) - depth or not outer:
        raise planner.unsupported(operator, f"of {list(shape)} by {list(given)}")
    inputs = [(shape, planner.dtype(operator.inputs[0])), (given, planner.dtype(operator.inputs[1]))]
    emit(planner, operator, (x, indices), indexed(inputs, made, of), made)


LOWERINGS = {
    "UNPACK": unpack, "TILE": tile, "BROADCAST_TO": broadcast_to, "DEPTH_TO_SPACE": depth_to_space,
    "SPACE_TO_DEPTH": space_to_depth, "SPACE_TO_BATCH_ND": space_to_batch, "BATCH_TO_SPACE_ND": batch_to_space,
    "MIRROR_PAD": mirror_pad, "GATHER_ND": gather_nd,
}  # fmt: skip
