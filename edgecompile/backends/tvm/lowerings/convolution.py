"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, with the addition behind them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from edgecompile.backends.tvm import epilogues
from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.intrinsics import takes, widest
from edgecompile.backends.tvm.operators import convolution as operators
from edgecompile.backends.tvm.operators.window import Window, window
from edgecompile.backends.tvm.pairs import Pair
from edgecompile.backends.tvm.plan import Step, Value
from edgecompile.backends.tvm.schedules import convolution as schedules
from edgecompile.task import Array
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

_DENSE = {"stride_h": 1, "stride_w": 1, "padding": "VALID"}


@dataclasses.dataclass(frozen=True)
class _Residual:
    """The ADD behind a convolution: its operator, its other input and its output."""

    operator: Operator
    other: Value
    output: int


def lower(planner: Planner, operator: Operator) -> None:
    x = planner.value(operator.inputs[0])
    weights = planner.constant(operator.inputs[1])
    if weights is None:
        raise planner.unsupported(operator, "its weights are computed while it runs")
    if x.of is None and weights.dtype == np.int8:
        weights = _widened(planner, operator, weights)
    dense = operator.name == "FULLY_CONNECTED"
    if dense:
        x = planner.whole(operator.inputs[0])
        rows = int(np.prod(x.shape)) // weights.shape[1]
        x = Value((1, 1, rows, weights.shape[1]), (1, 1, rows, weights.shape[1]), x.dtype, x.of, x.place)
        weights = weights[:, None, None, :]
    shape = window(
        _DENSE if dense else operator.options, (x.stored[1], x.stored[2]), (weights.shape[1], weights.shape[2])
    )
    if x.shape[0] != 1:
        raise planner.unsupported(operator, f"its batch is {x.shape[0]}, and code of ours takes one sample")
    if operator.name == "DEPTHWISE_CONV_2D":
        _depthwise(planner, operator, x, weights[0], shape)
    elif weights.shape[3] != x.shape[3]:
        raise planner.unsupported(operator, "it has groups of channels")
    else:
        _convolution(planner, operator, x, weights, shape)


def _widened(planner: Planner, operator: Operator, weights: Array) -> Array:
    """Integers for floats, as dynamic-range quantization leaves them: what they stand for."""
    kept = planner.tensor(operator.inputs[1]).quantization
    assert kept is not None
    along = [1] * weights.ndim
    along[kept.dimension] = -1
    scales = np.array(kept.scales, np.float32).reshape(along if kept.per_channel else [1])
    return weights.astype(np.float32) * scales


def _convolution(planner: Planner, operator: Operator, x: Value, weights: Array, shape: Window) -> None:
    outputs, channels = weights.shape[0], weights.shape[3]
    vector = planner.vector(outputs) if x.of is None or planner.isa.dot is None else planner.isa.lanes
    stored = -(-outputs // vector) * vector
    whole = shape
    if shape.pointwise:  # rows are columns then
        pixels = shape.output[0] * shape.output[1]
        shape = dataclasses.replace(shape, input=(1, pixels), output=(1, pixels))
        x = Value((1, 1, pixels, channels), (1, 1, pixels, x.stored[3]), x.dtype, x.of, x.place)
    residual = _residual(planner, operator, (1, *whole.output, stored))
    flat = (1, *shape.output, stored)
    epilogue = _epilogue(planner, operator, weights, stored, x, residual, flat)
    macs = planner.graph.macs(operator)
    if x.of is None:
        intrinsic = widest(planner.isa.products, channels) if vector == planner.isa.lanes else None
        made = operators.convolution(
            channels, x.stored[3], shape, stored, vector, epilogue, copied=intrinsic is not None
        )
        packed = operators.pack(weights.astype(np.float32), stored, vector)
    else:
        zero = x.of.zero
        made = operators.byte_convolution(channels, x.stored[3], shape, stored, vector, epilogue, x.dtype, zero)
        if operators.folds(channels, shape):
            weights = weights.reshape(outputs, weights.shape[1], 1, -1)
        packed = operators.pack(weights, stored, vector, operators.GROUP)
        groups = packed.shape[3]
        intrinsic = widest(planner.isa.dots, groups) if takes(planner.isa.dot, weights) else None
    function, note = schedules.convolution(made, planner.isa, macs, planner.threads, intrinsic)
    if intrinsic:
        note += f", {intrinsic.name.rpartition('.')[2]}"
    scratch = () if made.scratch is None else (Value(made.scratch[0], made.scratch[0], made.scratch[1]),)
    output = _output(planner, operator, residual, stored)
    operands = (*epilogue.constants, *((residual.other,) if residual else ()))
    done = (operator.index, *((residual.operator.index,) if residual else ()))
    planner.emit(Step(function, (x, packed, *operands, *scratch, output), (*scratch, output), done, note))


def _depthwise(planner: Planner, operator: Operator, x: Value, weights: Array, shape: Window) -> None:
    channels, multiplier = weights.shape[2], weights.shape[2] // x.shape[3]
    stored = x.stored[3] if multiplier == 1 else channels
    words = planner.isa.words and x.of is not None
    most = planner.isa.lanes * (2 if words else 1)
    vector = next(width for width in (16, 8, 4, 2, 1) if width <= most and stored % width == 0)
    wide = np.zeros((*weights.shape[:2], stored), np.int16 if words else np.float32)
    wide[..., :channels] = weights
    packed = np.ascontiguousarray(wide.reshape(*weights.shape[:2], stored // vector, vector).transpose(2, 0, 1, 3))
    epilogue = _epilogue(planner, operator, weights.transpose(2, 0, 1)[..., None], stored, x, None, ())
    zero = 0 if x.of is None else x.of.zero
    made = operators.depthwise((x.stored[3], multiplier), stored, shape, vector, epilogue, x.dtype, zero, words=words)
    function, note = schedules.depthwise(made, planner.isa, planner.graph.macs(operator), planner.threads)
    output = _output(planner, operator, None, stored)
    planner.emit(Step(function, (x, packed, *epilogue.constants, output), (output,), (operator.index,), note))


def _epilogue(
    planner: Planner,
    operator: Operator,
    weights: Array,
    stored: int,
    x: Value,
    residual: _Residual | None,
    at: tuple[int, ...],
) -> Epilogue:
    outputs, activation = weights.shape[0], operator.options["fused_activation_function"]
    given = None
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        given = planner.constant(operator.inputs[2])
        if given is None:
            raise planner.unsupported(operator, "its bias is computed while it runs")
    if x.of is None:
        bias = np.zeros(stored, np.float32)
        bias[:outputs] = 0 if given is None else given
        behind = (at, residual.operator.options["fused_activation_function"]) if residual else None
        return epilogues.of_floats(bias, activation, behind)
    into = planner.range(operator.outputs[0], activation)
    kept = planner.tensor(operator.inputs[1]).quantization
    assert into is not None
    assert kept is not None
    sums = np.zeros(stored, np.int64)
    sums[:outputs] = 0 if given is None else given
    sums[:outputs] -= x.of.zero * weights.astype(np.int64).sum(axis=(1, 2, 3))
    scales = np.ones(stored, np.float64)
    scales[:outputs] = np.float64(x.of.scale) * np.array(kept.scales, np.float64) / np.float64(into.scale)
    addition = None
    if residual is not None:
        own, last = planner.range(operator.outputs[0]), residual.operator.options["fused_activation_function"]
        sum_ = planner.range(residual.output, last)
        assert own is not None
        assert residual.other.of is not None
        assert sum_ is not None
        addition = (at, Pair(own, residual.other.of, sum_))
    once = operator.name == "FULLY_CONNECTED"
    return epilogues.of_integers(sums.astype(np.int32), scales, into, planner.mode, once=once, residual=addition)


def _residual(planner: Planner, operator: Operator, stored: tuple[int, ...]) -> _Residual | None:
    """The addition that alone reads the output, if its other input is there already and lies in memory alike."""
    behind = planner.only_reader(operator.outputs[0])
    if behind is None or behind.name != "ADD" or operator.options["fused_activation_function"] != "NONE":
        return None
    first, second = behind.inputs
    other = second if first == operator.outputs[0] else first
    if other == operator.outputs[0] or planner.constant(other) is not None or not planner.known(other):
        return None
    value = planner.value(other)
    if value.stored != stored or planner.tensor(other).shape != planner.tensor(operator.outputs[0]).shape:
        return None
    planner.take(behind)
    return _Residual(behind, value, behind.outputs[0])


def _output(planner: Planner, operator: Operator, residual: _Residual | None, stored: int) -> Value:
    index = residual.output if residual else operator.outputs[0]
    return planner.output(index, (*planner.tensor(index).shape[:-1], stored))


LOWERINGS = {"CONV_2D": lower, "DEPTHWISE_CONV_2D": lower, "FULLY_CONNECTED": lower}
