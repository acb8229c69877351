"""Operators on two quantized numbers, as LiteRT's reference kernels and as XNNPACK round them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from edgecompile.backends.tvm.arithmetic import (
    FAST,
    Expr,
    Range,
    clamped,
    f32,
    i32,
    multiplier,
    rounded,
    scaled,
)
from edgecompile.task import Array

# Bits by which LiteRT shifts integers to the left before it scales them.
_ADDED, _ADDED_INT16, _SQUARED = 20, 15, 7
# Bits behind the point that XNNPACK leaves the larger of two scales that it adds by, and how far it shifts back.
_BITS, _SHIFTS = 20, (13, 30)


@dataclass(frozen=True)
class Pair:
    """Ranges of the inputs and of the output."""

    first: Range
    second: Range
    into: Range


def added(a: Expr, b: Expr, of: Pair, mode: str) -> Expr:
    return _sum(a, b, of, mode, 1)


def subtracted(a: Expr, b: Expr, of: Pair, mode: str) -> Expr:
    return _sum(a, b, of, mode, -1)


def _sum(a: Expr, b: Expr, of: Pair, mode: str, sign: int) -> Expr:
    first, second, into = of.first, of.second, of.into
    if mode == FAST:
        one, two = (np.float32(each.scale) / np.float32(into.scale) for each in (first, second))
        shift = _BITS + 1 - math.frexp(max(one, two))[1]
        if not _SHIFTS[0] <= shift <= _SHIFTS[1]:
            total = a.astype("float32") * f32(one) + b.astype("float32") * f32(sign * two)
            return rounded(total - f32(first.zero * one + sign * second.zero * two), into)
        m, n = round(math.ldexp(one, shift)), sign * round(math.ldexp(two, shift))
        zeros = i32((1 << (shift - 1)) - m * first.zero - n * second.zero)
        return clamped((a.astype("int32") * i32(m) + b.astype("int32") * i32(n) + zeros) >> i32(shift), into)
    bits = _ADDED_INT16 if into.dtype == "int16" else _ADDED
    x, y, twice = _to_one_scale(a, b, of, bits)
    m, shift = multiplier(twice / ((1 << bits) * into.scale))
    return clamped(scaled(x + y if sign > 0 else x - y, i32(m), i32(shift)), into)


def multiplied(a: Expr, b: Expr, of: Pair, mode: str) -> Expr:
    product = (a.astype("int32") - i32(of.first.zero)) * (b.astype("int32") - i32(of.second.zero))
    # LiteRT computes it in float32.
    real = float(np.float32(of.first.scale) * np.float32(of.second.scale) / np.float32(of.into.scale))
    if mode == FAST:
        return rounded(product.astype("float32") * f32(real), of.into)
    m, shift = multiplier(real)
    return clamped(scaled(product, i32(m), i32(shift)), of.into)


def leaking(a: Expr, b: Expr, of: Pair, mode: str) -> Expr:
    """PRELU: negative numbers times their own factor."""
    x, factor = a.astype("int32") - i32(of.first.zero), b.astype("int32") - i32(of.second.zero)
    # LiteRT computes both in float32.
    plain = float(np.float32(of.first.scale) / np.float32(of.into.scale))
    times = float(np.float32(of.first.scale) * np.float32(of.second.scale) / np.float32(of.into.scale))
    if mode == FAST:
        kept, leaked = x.astype("float32") * f32(plain), (x * factor).astype("float32") * f32(times)
        return rounded(tirx.Select(x >= i32(0), kept, leaked), of.into)
    (m, shift), (n, less) = multiplier(plain), multiplier(times)
    kept, leaked = scaled(x, i32(m), i32(shift)), scaled(x * factor, i32(n), i32(less))
    return clamped(tirx.Select(x >= i32(0), kept, leaked), of.into)


def squared_difference(a: Expr, b: Expr, of: Pair, mode: str) -> Expr:
    if mode == FAST:
        x = (a.astype("int32") - i32(of.first.zero)).astype("float32") * f32(of.first.scale)
        y = (b.astype("int32") - i32(of.second.zero)).astype("float32") * f32(of.second.scale)
        return rounded((x - y) * (x - y) * f32(1 / of.into.scale), of.into)
    x, y, twice = _to_one_scale(a, b, of, _SQUARED)
    m, shift = multiplier(twice * twice / ((1 << (2 * _SQUARED)) * of.into.scale))
    return clamped(scaled((x - y) * (x - y), i32(m), i32(shift)), of.into)


def _to_one_scale(a: Expr, b: Expr, of: Pair, bits: int) -> tuple[Expr, Expr, float]:
    """(a, b, the scale of both times 2^bits), int32."""
    twice = 2 * max(of.first.scale, of.second.scale)

    def one(value: Expr, range_: Range) -> Expr:
        m, shift = multiplier(range_.scale / twice)
        return scaled((value.astype("int32") - i32(range_.zero)) << i32(bits), i32(m), i32(shift))

    return one(a, of.first), one(b, of.second), twice


def quotient_scale(of: Pair) -> float:
    """LiteRT computes it in float32."""
    return float(np.float32(of.first.scale) / (np.float32(of.second.scale) * np.float32(of.into.scale)))


def quotients(of: Pair) -> Array:
    """[256, 256] of each second byte and each first one, the least first, as they are stored: as LiteRT divides, by a
    reciprocal. Of a divisor of 0, which it refuses while it runs, there is 0."""
    values = np.arange(256) + np.iinfo(of.into.dtype).min
    x, y = values[None] - of.first.zero, values[:, None] - of.second.zero
    x, y = np.where(y < 0, -x, x), np.abs(y)
    bits, room = _bits(np.maximum(y, 1)), 31 - _bits(np.where(x < 0, -x - 1, x))
    m, shift = multiplier(quotient_scale(of))
    quotient = _high_product(_high_product(x << room, _reciprocal((y << 32 - bits) - (1 << 31))), m)
    right = bits - 1 + room - shift
    found = (quotient + (1 << right - 1) + (quotient >> 63)) >> right
    kept = np.where(y == 0, 0, found) + of.into.zero
    return np.asarray(kept.clip(of.into.low, of.into.high), of.into.dtype)


def _bits(x: Array) -> Array:
    """How many of each number, from 0 on."""
    return np.asarray(np.frexp(x)[1], np.int64)


def _reciprocal(a: Array) -> Array:
    """1 / (1 + a / 2^31), 31 fractional bits: fixed_point.reciprocal of numbers that are known."""
    half: Array = (a + (1 << 31)) >> 1
    x: Array = 1515870810 + _high_product(half, -1010580540)
    for _ in range(3):
        x = x + (_high_product(x, (1 << 29) - _high_product(half, x)) << 2)
    doubled: Array = x << 1
    return doubled.clip(max=(1 << 31) - 1)


def _high_product(a: Array, b: Any) -> Array:
    found: Array = (a * b + (1 << 30)) >> 31
    return found
