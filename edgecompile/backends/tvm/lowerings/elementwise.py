"""Operators on elements of one or two tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tvm import tirx

from edgecompile.backends.tvm import pairs
from edgecompile.backends.tvm.arithmetic import FAST, REFERENCE, Expr, error_function, exponential, f32
from edgecompile.backends.tvm.epilogues import activated
from edgecompile.backends.tvm.lowerings.calls import each, emit
from edgecompile.backends.tvm.operators.pointwise import dequantized, looked_up, quantized, truth
from edgecompile.backends.tvm.pairs import Pair
from edgecompile.backends.tvm.tables import table
from edgecompile.tflite_file.graph import Operator

if TYPE_CHECKING:
    from edgecompile.backends.tvm.planner import Planner

Lowering = Callable[["Planner", Operator], None]
Integers = Callable[[Expr, Expr, Pair, str], Expr]


def _two(floats: Callable[[Expr, Expr], Expr], integers: Integers | None = None) -> Lowering:
    def lower(planner: Planner, operator: Operator) -> None:
        activation = operator.options.get("fused_activation_function", "NONE")
        first, second = (planner.range(index) for index in operator.inputs)
        into = planner.range(operator.outputs[0], activation)
        if planner.tensor(operator.outputs[0]).dtype == "float32":
            each(planner, operator, operator.inputs, lambda a, b: activated(floats(a, b), activation))
        elif first is not None and second is not None and into is not None and integers is not None:
            of = Pair(first, second, into)
            if into.dtype == "int16" and not _in_16_bits(operator, of):
                raise planner.unsupported(operator, "on int16 with these scales")
            each(planner, operator, operator.inputs, lambda a, b: integers(a, b, of, planner.mode))
        else:
            raise planner.unsupported(operator, f"on {planner.tensor(operator.inputs[0]).dtype}")

    return lower


def _in_16_bits(operator: Operator, of: Pair) -> bool:
    """Whether LiteRT computes it as it does bytes: scales that all are powers of two have a way of their own."""
    scales = (of.first.scale, of.second.scale, of.into.scale)
    special = operator.options.get("pot_scale_int16", False) and all(math.frexp(scale)[0] == 0.5 for scale in scales)
    return operator.name not in ("SQUARED_DIFFERENCE", "PRELU") and not special


def _as_they_are(of: Callable[[Expr, Expr], Expr]) -> Integers:
    """On bytes whose scales and zero points are all the same."""

    def stored(a: Expr, b: Expr, pair: Pair, mode: str) -> Expr:
        del pair, mode
        return of(a, b)

    return stored


def one(floats: Callable[[Expr, Operator], Expr], *, quick: bool = False) -> Lowering:
    """Bytes have 256 values: LiteRT's results for them are a table. quick: `floats` is compiled to vectors, and so is
    faster than a table where its rounding may be our own."""

    def lower(planner: Planner, operator: Operator) -> None:
        given = operator.inputs[:1]
        of, into = planner.range(given[0]), planner.range(operator.outputs[0])
        ours = quick and planner.mode == FAST and (of is None or of.dtype != "int16")
        if of is not None and into is not None and ours:
            each(planner, operator, given, lambda a: quantized(floats(dequantized(a, of), operator), into, False))
        elif of is not None and into is not None:
            _tabled(planner, operator)
        elif planner.tensor(given[0]).dtype == planner.tensor(operator.outputs[0]).dtype == "float32":
            each(planner, operator, given, lambda a: floats(a, operator))
        else:
            raise planner.unsupported(operator, f"on {planner.tensor(given[0]).dtype}")

    return lower


def _tabled(planner: Planner, operator: Operator) -> None:
    x, entries = planner.value(operator.inputs[0]), table(planner, operator)
    least = np.iinfo(x.dtype).min
    if entries.dtype.name == x.dtype and np.array_equal(entries, np.arange(least, least + entries.size)):
        planner.same(operator.outputs[0], x)
    else:
        emit(planner, operator, (x, entries), looked_up(x.stored, x.dtype, entries.dtype.name), x.stored)


def quantize(planner: Planner, operator: Operator) -> None:
    of, into = (planner.range(index) for index in (operator.inputs[0], operator.outputs[0]))
    if planner.tensor(operator.inputs[0]).dtype == "float32" and into is not None:
        each(planner, operator, operator.inputs, lambda a: quantized(a, into, planner.mode == REFERENCE))
    elif of is None or into is None:
        raise planner.unsupported(operator, f"to {planner.tensor(operator.outputs[0]).dtype}")
    else:
        _tabled(planner, operator)


def dequantize(planner: Planner, operator: Operator) -> None:
    of = planner.range(operator.inputs[0])
    if of is None:
        raise planner.unsupported(operator, f"of {planner.tensor(operator.inputs[0]).dtype}")
    each(planner, operator, operator.inputs, lambda a: dequantized(a, of))


def cast(planner: Planner, operator: Operator) -> None:
    of, into = planner.tensor(operator.inputs[0]).dtype, planner.tensor(operator.outputs[0]).dtype
    if {of, into} - {"float32", "int32", "int64", "bool"}:
        raise planner.unsupported(operator, f"from {of} to {into}")
    if into == "bool":
        zero = tirx.const(0, planner.dtype(operator.inputs[0]))
        each(planner, operator, operator.inputs, lambda a: truth(tirx.NE(a, zero)))
    else:
        each(planner, operator, operator.inputs, lambda a: a.astype(into))


def _gelu(x: Expr, operator: Operator) -> Expr:
    if operator.options["approximate"]:
        cubic = x + f32(0.044715) * x * x * x
        return f32(0.5) * x * (f32(1) + tirx.tanh(f32(0.7978845608028654) * cubic))
    return f32(0.5) * x * (f32(1) + error_function(x * f32(0.7071067811865476)))


def _leaky(x: Expr, operator: Operator) -> Expr:
    return tirx.Select(x < f32(0), x * f32(operator.options["alpha"]), x)


def _fused(activation: str) -> Lowering:
    return one(lambda x, _: activated(x, activation), quick=True)


def _hard_swish(x: Expr, operator: Operator) -> Expr:
    del operator
    return x * tirx.max(tirx.min(x + f32(3), f32(6)), f32(0)) * f32(1 / 6)


LOWERINGS: dict[str, Lowering] = {
    "ADD": _two(lambda a, b: a + b, pairs.added),
    "SUB": _two(lambda a, b: a - b, pairs.subtracted),
    "MUL": _two(lambda a, b: a * b, pairs.multiplied),
    "POW": _two(tirx.pow),
    "PRELU": _two(lambda a, b: tirx.Select(a < f32(0), a * b, a), pairs.leaking),
    "SQUARED_DIFFERENCE": _two(lambda a, b: (a - b) * (a - b), pairs.squared_difference),
    "MAXIMUM": _two(tirx.max, _as_they_are(tirx.max)),
    "MINIMUM": _two(tirx.min, _as_they_are(tirx.min)),
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "CAST": cast,
    "RELU": _fused("RELU"),
    "RELU6": _fused("RELU6"),
    "RELU_N1_TO_1": _fused("RELU_N1_TO_1"),
    "LEAKY_RELU": one(_leaky, quick=True),
    "GELU": one(_gelu),
    "HARD_SWISH": one(_hard_swish, quick=True),
    "TANH": one(lambda x, _: tirx.tanh(x)),
    "EXP": one(lambda x, _: exponential(x)),
    "LOG": one(lambda x, _: tirx.log(x)),
    "SQRT": one(lambda x, _: tirx.sqrt(x)),
    "RSQRT": one(lambda x, _: f32(1) / tirx.sqrt(x)),
    "ABS": one(lambda x, _: tirx.abs(x)),
    "NEG": one(lambda x, _: -x),
    "ELU": one(lambda x, _: tirx.Select(x < f32(0), exponential(x) - f32(1), x)),
    "FLOOR": one(lambda x, _: tirx.floor(x)),
    "CEIL": one(lambda x, _: tirx.ceil(x)),
    "ROUND": one(lambda x, _: tirx.nearbyint(x)),
    "SIN": one(lambda x, _: tirx.sin(x)),
    "COS": one(lambda x, _: tirx.cos(x)),
    "SQUARE": one(lambda x, _: x * x),
}
