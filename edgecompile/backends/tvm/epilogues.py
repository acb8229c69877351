"""What happens to a sum before it is stored: bias, requantization, activation, and a residual that is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import (
    FAST,
    Expr,
    Range,
    clamped,
    f32,
    multiplier,
    rounded,
    scaled,
    scaled_in_doubles,
    scaled_once,
    scaled_wide,
)
from edgecompile.backends.tvm.pairs import Pair, added
from edgecompile.task import Array

Indices = tuple[Any, ...]
# How a sum is brought to the output's scale: rounded after the product and after the shift, once over both, by the
# upper half of the multiplier, or in doubles.
TWICE, ONCE, WIDE, DOUBLES = "twice", "once", "wide", "doubles"


@dataclass(frozen=True)
class Epilogue:
    """dtype: of what is stored. operands: what it reads beside the sum; the first `len(constants)` of them are
    constants, padded to the stored channels. apply: (sum, channel, indices of the output) -> what is stored."""

    dtype: str
    operands: tuple[Any, ...]
    constants: tuple[Array, ...]
    apply: Callable[[Expr, Expr, Indices], Expr]


def activated(value: Expr, activation: str) -> Expr:
    """A float32 behind an activation that TFLite fuses."""
    if activation in ("RELU", "RELU6"):
        value = tirx.max(value, f32(0))
    if activation == "RELU_N1_TO_1":
        value = tirx.max(value, f32(-1))
    if activation == "TANH":
        return tirx.tanh(value)
    limit = {"RELU6": 6.0, "RELU_N1_TO_1": 1.0}.get(activation)
    return value if limit is None else tirx.min(value, f32(limit))


def of_floats(bias: Array, activation: str, residual: tuple[tuple[int, ...], str] | None = None) -> Epilogue:
    """bias: float32 [stored channels]. residual: (its shape, the activation behind the addition)."""
    b = te.placeholder(bias.shape, "float32", "bias")
    if residual is None:
        return Epilogue("float32", (b,), (bias,), lambda total, o, _: activated(total + b[o], activation))
    shape, last = residual
    r = te.placeholder(shape, "float32", "residual")

    def apply(total: Expr, o: Expr, at: Indices) -> Expr:
        return activated(activated(total + b[o], activation) + r[at], last)

    return Epilogue("float32", (b, r), (bias,), apply)


def in_floats(scales: Array, into: Range) -> Array:
    """float64 scales in float32, multiplied and divided in it as XNNPACK does: the last bit counts at times."""
    made: Array = (scales * into.scale).astype(np.float32) / np.float32(into.scale)
    return made


def of_integers(
    bias: Array,
    scales: Array,
    into: Range,
    mode: str,
    *,
    rounding: str = TWICE,
    less: tuple[tuple[int, ...], int] | None = None,
    residual: tuple[tuple[int, ...], Pair] | None = None,
) -> Epilogue:
    """bias: int32 or, of int16 activations, int64, and scales: float64 (input's times weights' over output's), both
    [stored channels].

    rounding: in reference mode. less: (shape of what is subtracted, its last axis 1, what multiplies it).
    residual: (its shape, the addition, whose first input is the sum).
    """
    if into.unsigned:  # LiteRT multiplies the scales of input and weights in float32
        scales = (scales * into.scale).astype(np.float32).astype(np.float64) / into.scale
    whole = bias.dtype.name
    b = te.placeholder(bias.shape, whole, "bias")
    constants: tuple[Array, ...]
    operands: tuple[Any, ...]
    if mode == FAST:
        m = te.placeholder(bias.shape, "float32", "scale")
        operands, constants = (b, m), (bias, in_floats(scales, into))

        def requantized(total: Expr, o: Expr) -> Expr:
            return rounded(total.astype("float32") * m[o], into)
    elif rounding == DOUBLES:
        m = te.placeholder(bias.shape, "float64", "scale")
        operands, constants = (b, m), (bias, scales)

        def requantized(total: Expr, o: Expr) -> Expr:
            return clamped(scaled_in_doubles(total, m[o]), into)
    else:
        pairs = [multiplier(float(scale)) for scale in scales]
        m, s = te.placeholder(bias.shape, "int32", "multiplier"), te.placeholder(bias.shape, "int32", "shift")
        operands = (b, m, s)
        constants = (bias, np.array([p[0] for p in pairs], np.int32), np.array([p[1] for p in pairs], np.int32))
        scale = {TWICE: scaled, ONCE: scaled_once, WIDE: scaled_wide}[rounding]

        def requantized(total: Expr, o: Expr) -> Expr:
            return clamped(scale(total, m[o], s[o]), into)

    if less is not None:
        seen, factor = te.placeholder(less[0], "int32", "seen"), less[1]
        operands = (*operands, seen)

    def biased(total: Expr, o: Expr, at: Indices) -> Expr:
        found, place = total.astype(whole) + b[o], (*at[:-1], 0)
        return found if less is None else found - seen[place] * factor

    if residual is None:
        return Epilogue(into.dtype, operands, constants, lambda total, o, at: requantized(biased(total, o, at), o))
    shape, addition = residual
    r = te.placeholder(shape, addition.second.dtype, "residual")

    def apply(total: Expr, o: Expr, at: Indices) -> Expr:
        return added(requantized(biased(total, o, at), o), r[at], addition, mode)

    return Epilogue(addition.into.dtype, (*operands, r), constants, apply)
