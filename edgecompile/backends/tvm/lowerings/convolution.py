"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, with the addition behind them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from edgecompile.backends.tvm import epilogues
from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.lowerings import kernels
from edgecompile.backends.tvm.lowerings.kernels import Kernel
from edgecompile.backends.tvm.operators import convolution as operators
from edgecompile.backends.tvm.operators.window import Window, window
from edgecompile.backends.tvm.pairs import Pair
from edgecompile.backends.tvm.plan import Step, Value
from edgecompile.backends.tvm.schedules import plain
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
    given = planner.padded(operator.inputs[0])
    x = planner.value(given.tensor)
    weights, zero = known_weights(planner, operator, x)
    dense = operator.name == "FULLY_CONNECTED"
    if dense:
        x = planner.whole(operator.inputs[0])
        rows = int(np.prod(x.shape)) // weights.shape[1]
        x = Value((1, 1, rows, weights.shape[1]), (1, 1, rows, weights.shape[1]), x.dtype, x.of, x.place)
        weights = weights[:, None, None, :]
    shape = window(
        _DENSE if dense else operator.options,
        (x.stored[1], x.stored[2]),
        (weights.shape[1], weights.shape[2]),
        given.around,
    )
    call = Call(planner, operator, given.operators, zero)
    if operator.name == "DEPTHWISE_CONV_2D":
        _depthwise(call, x, weights[0], shape)
    else:
        convolution(call, x, weights, shape)


def known_weights(planner: Planner, operator: Operator, x: Value) -> tuple[Array, int]:
    """(the weights of an operator on `x`, float32 or int8; what stands for 0 in them)"""
    weights = planner.constant(operator.inputs[1])
    if weights is None:
        raise planner.unsupported(operator, "its weights are computed while it runs")
    if planner.tensor(operator.inputs[1]).quantization is None and weights.dtype.kind in "iu":
        raise planner.unsupported(operator, "its integer weights have no scale of their own, or one a block")
    if x.of is not None:
        return _signed(planner, operator, weights)
    if x.dtype != "float32" or weights.dtype not in (np.float32, np.int8):
        raise planner.unsupported(operator, f"of {x.dtype} with weights of {weights.dtype}")
    return (_widened(planner, operator, weights) if weights.dtype == np.int8 else weights), 0


def _widened(planner: Planner, operator: Operator, weights: Array) -> Array:
    """Integers for floats, as dynamic-range quantization leaves them: what they stand for."""
    kept = planner.tensor(operator.inputs[1]).quantization
    assert kept is not None
    along = [1] * weights.ndim
    along[kept.dimension] = -1
    scales = np.array(kept.scales, np.float32).reshape(along if kept.per_channel else [1])
    return weights.astype(np.float32) * scales


def _signed(planner: Planner, operator: Operator, weights: Array) -> tuple[Array, int]:
    """(int8 weights, what stands for 0 in them): unsigned ones are 128 less."""
    kept = planner.tensor(operator.inputs[1]).quantization
    assert kept is not None
    zeros = set(kept.zero_points)
    if len(zeros) != 1 or weights.dtype not in (np.int8, np.uint8):
        raise planner.unsupported(operator, f"with weights of {weights.dtype} and zero points {sorted(zeros)[:4]}")
    if weights.dtype == np.int8:
        return weights, zeros.pop()
    return (weights.astype(np.int16) - 128).astype(np.int8), zeros.pop() - 128


@dataclasses.dataclass(frozen=True)
class Call:
    """An operator that is a sum of products. front: operators that are part of it too. zero: what stands for 0 in its
    weights. bias: which of its inputs is the bias."""

    planner: Planner
    operator: Operator
    front: tuple[int, ...] = ()
    zero: int = 0
    bias: int = 2

    @property
    def macs(self) -> int:
        return self.planner.graph.macs(self.operator)


def convolution(call: Call, x: Value, weights: Array, shape: Window) -> None:
    """Emits the step. weights: [out, height, width, in / groups]."""
    planner, operator = call.planner, call.operator
    outputs, channels = weights.shape[0], weights.shape[3]
    if x.shape[3] % channels or outputs % (x.shape[3] // channels):
        raise planner.unsupported(operator, f"{x.shape[3]} channels with weights for {channels}")
    group = 0 if channels == x.shape[3] else outputs // (x.shape[3] // channels)
    dotted = kernels.dotted(x.dtype, group)
    vector = planner.isa.lanes if dotted and planner.isa.dot else planner.vector(outputs)
    stored = -(-outputs // vector) * vector
    whole = shape
    if shape.pointwise:  # rows are columns then, of all samples
        pixels = x.shape[0] * shape.output[0] * shape.output[1]
        shape = dataclasses.replace(shape, input=(1, pixels), output=(1, pixels))
        x = Value((1, 1, pixels, x.shape[3]), (1, 1, pixels, x.stored[3]), x.dtype, x.of, x.place)
        flat: tuple[int, ...] = (1, 1, pixels, stored)
    else:
        flat = (x.shape[0], *shape.output, stored)
    batch = planner.tensor(operator.outputs[0]).shape[0]
    residual = _residual(planner, operator, (batch, *whole.output, stored))
    of = operators.Input(x.shape[0], channels, x.stored[3], x.dtype, 0 if x.of is None else x.of.zero)
    seen = _seen(call, x, of, shape, group)
    epilogue = _epilogue(call, weights, stored, x, residual, flat, seen)
    work = kernels.Work(of, shape, weights, stored, call.macs, planner.isa, planner.threads)
    reads = (*((seen,) if seen else ()), *((residual.other,) if residual else ()))
    _emit(call, x, kernels.convolution(work, vector, group, epilogue), epilogue, reads, residual, stored)


def _emit(
    call: Call, x: Value, made: Kernel, epilogue: Epilogue, reads: tuple[Value, ...], residual: _Residual | None,
    stored: int,
) -> None:  # fmt: skip
    """reads: what the epilogue does beside its constants."""
    planner, operator = call.planner, call.operator
    scratch = () if made.scratch is None else (Value(made.scratch[0], made.scratch[0], made.scratch[1]),)
    output = _output(planner, operator, residual, stored)
    arguments = (x, *made.factors, *epilogue.constants, *reads, *scratch, output)
    done = (*call.front, operator.index, *((residual.operator.index,) if residual else ()))
    planner.emit(Step(made.function, arguments, (*scratch, output), done, made.note))


def _depthwise(call: Call, x: Value, weights: Array, shape: Window) -> None:
    """weights: [height, width, channels]."""
    planner, channels, multiplier = call.planner, weights.shape[2], weights.shape[2] // x.shape[3]
    stored = x.stored[3] if multiplier == 1 else channels
    epilogue = _epilogue(call, weights.transpose(2, 0, 1)[..., None], stored, x, None, ())
    of = operators.Input(x.shape[0], x.shape[3], x.stored[3], x.dtype, 0 if x.of is None else x.of.zero)
    real = weights.astype(np.float32 if x.of is None else np.int32) - call.zero
    work = kernels.Work(of, shape, real, stored, call.macs, planner.isa, planner.threads)
    _emit(call, x, kernels.depthwise(work, multiplier, epilogue), epilogue, (), None, stored)


def _seen(call: Call, x: Value, of: operators.Input, shape: Window, group: int) -> Value | None:
    """The sums of the input alone, which a zero point of the weights multiplies."""
    if call.zero == 0:
        return None
    if group:
        raise call.planner.unsupported(call.operator, "it has groups of channels and weights with a zero point")
    made = (of.batch, *shape.output, 1)
    sums = Value(made, made, "int32")
    function, note = plain.as_it_is(operators.row_sums(of, shape))
    call.planner.emit(Step(function, (x, sums), (sums,), (), f"sums of the input, {note}"))
    return sums


def _epilogue(
    call: Call,
    weights: Array,
    stored: int,
    x: Value,
    residual: _Residual | None,
    at: tuple[int, ...],
    seen: Value | None = None,
) -> Epilogue:
    planner, operator = call.planner, call.operator
    outputs, activation = weights.shape[0], operator.options.get("fused_activation_function", "NONE")
    given = None
    if len(operator.inputs) > call.bias and operator.inputs[call.bias] >= 0:
        given = planner.constant(operator.inputs[call.bias])
        if given is None:
            raise planner.unsupported(operator, "its bias is computed while it runs")
    if x.of is None:
        bias = np.zeros(stored, np.float32)
        bias[:outputs] = 0 if given is None else given
        behind = (at, residual.operator.options["fused_activation_function"]) if residual else None
        return epilogues.of_floats(bias, activation, behind)
    into = planner.range(operator.outputs[0], activation)
    kept = planner.tensor(operator.inputs[1]).quantization
    if into is None or kept is None or into.dtype != x.dtype:
        raise planner.unsupported(operator, f"from {x.dtype} to {planner.dtype(operator.outputs[0])}")
    sums = np.zeros(stored, np.int64)
    sums[:outputs] = 0 if given is None else given
    sums[:outputs] -= x.of.zero * (weights.astype(np.int64) - call.zero).sum(axis=(1, 2, 3))
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
    dense = operator.name == "FULLY_CONNECTED"
    if x.dtype == "int16":
        if given is not None and given.dtype != np.int64:
            raise planner.unsupported(operator, f"of int16 with a bias of {given.dtype}, not int64")
        rounding = epilogues.ONCE if dense else epilogues.WIDE
    else:
        rounding = epilogues.DOUBLES if dense else epilogues.TWICE
        sums = sums.astype(np.int32)
    less = None if seen is None else (seen.stored, call.zero)
    return epilogues.of_integers(sums, scales, into, planner.mode, rounding=rounding, less=less, residual=addition)


def _residual(planner: Planner, operator: Operator, stored: tuple[int, ...]) -> _Residual | None:
    """The addition that alone reads the output, if its other input is there already and lies in memory alike."""
    behind = planner.only_reader(operator.outputs[0])
    if behind is None or behind.name != "ADD" or planner.only_number(behind) is not None:
        return None
    if operator.options["fused_activation_function"] != "NONE":
        return None
    first, second = behind.inputs
    other = second if first == operator.outputs[0] else first
    if other == operator.outputs[0] or planner.constant(other) is not None or not planner.known(other):
        return None
    value = planner.value(other)
    if (
        value.dtype == "int16"
        or value.stored != stored
        or planner.tensor(other).shape != planner.tensor(operator.outputs[0]).shape
    ):
        return None
    planner.take(behind)
    return _Residual(behind, value, behind.outputs[0])


def _output(planner: Planner, operator: Operator, residual: _Residual | None, stored: int) -> Value:
    index = residual.output if residual else operator.outputs[0]
    return planner.output(index, (*planner.tensor(index).shape[:-1], stored))


LOWERINGS = {"CONV_2D": lower, "DEPTHWISE_CONV_2D": lower, "FULLY_CONNECTED": lower}
