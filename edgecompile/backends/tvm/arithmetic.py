"""Arithmetic of quantized operators as TIR expressions, and the numbers that they need.

Two modes. "reference" is what LiteRT's reference kernels compute, to the bit (Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 2.2, in gemmlowp's rounding).
"fast" is XNNPACK's: the scale in float32, then rounding half to even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx

FAST, REFERENCE = "fast", "reference"
MODES = (FAST, REFERENCE)
# Adding 1.5 * 2^23 to a float32 leaves the rounded integer in its lowest bits.
_MAGIC, _MAGIC_BITS = 12582912.0, 0x4B400000

Expr = Any  # tvm.tirx.PrimExpr; TVM has no types that mypy reads


@dataclass(frozen=True)
class Range:
    """Integers as they are stored: real = scale * (stored - zero). low, high: what an activation leaves of them.
    unsigned: whether they are uint8 in the .tflite."""

    scale: float
    zero: int
    low: int
    high: int
    dtype: str
    unsigned: bool = False


def i32(value: int) -> Expr:
    return tirx.const(int(value), "int32")


def i64(value: int) -> Expr:
    return tirx.const(int(value), "int64")


def f32(value: float) -> Expr:
    return tirx.const(float(value), "float32")


def f64(value: float) -> Expr:
    return tirx.const(float(value), "float64")


def multiplier(real: float) -> tuple[int, int]:
    """(m, shift) with real = m * 2^(shift - 31), as LiteRT's QuantizeMultiplier gives it."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    m = math.floor(fraction * (1 << 31) + 0.5)
    if m == 1 << 31:
        m, shift = m // 2, shift + 1
    return (0, 0) if shift < -31 else (m, shift)


def scaled(x: Expr, m: Expr, shift: Expr) -> Expr:
    """int32 x * m * 2^(shift - 31), rounded twice as LiteRT does: after the product, and after the shift right."""
    left, right = tirx.max(shift, i32(0)), tirx.max(-shift, i32(0))
    wide = (x << left).astype("int64") * m.astype("int64")
    v = ((wide + i64(1 << 30)) >> i64(31)).astype("int32")
    nudge = tirx.Select(right > i32(0), (i32(1) << tirx.max(right - i32(1), i32(0))) + (v >> i32(31)), i32(0))
    return (v + nudge) >> right


def high_product(a: Expr, b: Expr) -> Expr:
    """The upper half of twice the product of two int32, rounded."""
    return ((a.astype("int64") * b.astype("int64") + i64(1 << 30)) >> i64(31)).astype("int32")


def scaled_once(x: Expr, m: Expr, shift: Expr) -> Expr:
    """As `scaled`, rounded once over the whole shift, which LiteRT's FULLY_CONNECTED of int16 does."""
    total = (i32(31) - shift).astype("int64")
    wide = x.astype("int64") * m.astype("int64")
    return ((wide + (i64(1) << (total - i64(1)))) >> total).astype("int32")


def scaled_in_doubles(x: Expr, scale: Expr) -> Expr:
    """int32 x * float64 scale, halves away from zero: as LiteRT's FULLY_CONNECTED scales, unlike its convolutions."""
    limit = tirx.const(float(1 << 30), "float64")  # far beyond a byte, and still an int32
    product = tirx.max(tirx.min(x.astype("float64") * scale, limit), -limit)
    half = tirx.const(0.5, "float64")
    return (product + tirx.Select(x < i32(0), -half, half)).astype("int32")


def scaled_wide(x: Expr, m: Expr, shift: Expr) -> Expr:
    """int64 x * m * 2^(shift - 31), with m in 15 bits, which LiteRT's kernels of int16 do with int64 sums."""
    reduced = tirx.min((m >> i32(16)) + ((m >> i32(15)) & i32(1)), i32(0x7FFF)).astype("int64")
    total = (i32(15) - shift).astype("int64")
    return ((x * reduced + (i64(1) << (total - i64(1)))) >> total).astype("int32")


def clamped(value: Expr, into: Range) -> Expr:
    """An int32, without its zero point, as it is stored."""
    return tirx.max(tirx.min(value + i32(into.zero), i32(into.high)), i32(into.low)).astype(into.dtype)


def rounded(value: Expr, into: Range) -> Expr:
    """A float32 in units of the scale, without its zero point, rounded half to even, as it is stored."""
    kept = tirx.max(tirx.min(value, f32(into.high - into.zero)), f32(into.low - into.zero))
    return (tirx.reinterpret("int32", kept + f32(_MAGIC)) - i32(_MAGIC_BITS - into.zero)).astype(into.dtype)


def away_from_0(value: Expr) -> Expr:
    """A float32 within int32 as the nearest integer, halves away from 0."""
    whole = tirx.trunc(value)
    up = tirx.Select(value < f32(0), f32(-1), f32(1))
    return (whole + tirx.Select(tirx.abs(value - whole) >= f32(0.5), up, f32(0))).astype("int32")


# exp(x) = 2^n * exp(y), |y| <= ln(2) / 2, exp(y) by Taylor's terms to the sixth, which leaves 2e-7 of it.
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
_TERMS = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)


def exponential(x: Expr) -> Expr:
    """exp of a float32, in vectors: the C library's, which LLVM calls for tirx.exp, takes one number at a time.

    To 3e-7 of it from -87 to 88, and what there is at these ends beyond them (ln 2 in two parts: Cody and Waite,
    "Software Manual for the Elementary Functions", 1980, chapter 6).
    """
    kept = tirx.max(tirx.min(x, f32(88.0)), f32(-87.0))
    power = tirx.reinterpret("int32", kept * f32(_LOG2_E) + f32(_MAGIC)) - i32(_MAGIC_BITS)
    n = power.astype("float32")
    y = kept - n * f32(_LN2_HIGH) - n * f32(_LN2_LOW)
    total = f32(_TERMS[0])
    for term in _TERMS[1:]:
        total = total * y + f32(term)
    return total * tirx.reinterpret("float32", (power + i32(127)) << i32(23))


# Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, formula 7.1.26.
_ERF_P, _ERF = 0.3275911, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0)


def error_function(x: Expr) -> Expr:
    """erf of a float32, to 5e-7, in vectors."""
    size = tirx.abs(x)
    t = f32(1) / (f32(1) + f32(_ERF_P) * size)
    total = f32(_ERF[0])
    for term in _ERF[1:]:
        total = total * t + f32(term)
    found = f32(1) - total * exponential(-size * size)
    return tirx.Select(x < f32(0), -found, found)
