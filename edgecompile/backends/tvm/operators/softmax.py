"""SOFTMAX: in float32, and of bytes in the fixed-point arithmetic of LiteRT's reference kernels (gemmlowp's)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, exponential, f32, high_product, i32, i64, multiplier
from edgecompile.backends.tvm.operators.fixed_point import ONE, by_row, reciprocal
from edgecompile.task import Array

_DIFF_BITS, _SUM_BITS = 5, 12  # integer bits of a scaled difference, and of a sum of exponentials


def in_floats(
    stored: tuple[int, int],
    count: int,
    dtype: str,
    real: Callable[[Expr], Expr],
    beta: float,
    finish: Callable[[Expr], Expr],
) -> Any:
    """Over the first `count` of [rows, stored]. real: a stored element as float32, up to a constant.

    finish: (probability) -> what is stored.
    """
    rows, width = stored
    x = te.placeholder((rows, width), dtype, "x")
    i, j = te.reduce_axis((0, count), "i"), te.reduce_axis((0, count), "j")
    most = te.compute((rows,), lambda r: te.max(real(x[r, i]), axis=i), name="most")
    power = te.compute((rows, count), lambda r, c: exponential((real(x[r, c]) - most[r]) * f32(beta)), name="power")
    total = te.compute((rows,), lambda r: te.sum(power[r, j], axis=j), name="total")
    store = te.compute((rows, count), lambda r, c: finish(power[r, c] / total[r]), name="store")
    return te.create_prim_func([x, store])


def in_fixed_point(stored: tuple[int, int], count: int, dtype: str, bits: int, low: int) -> Any:
    """As `in_floats`, of bytes, with the table that `exponentials` gives as the second argument.

    bits: of an output. low: what stands for the least output.
    """
    rows, width = stored
    x = te.placeholder((rows, width), dtype, "x")
    table = te.placeholder((256,), "int32", "table")
    i, j = te.reduce_axis((0, count), "i"), te.reduce_axis((0, count), "j")
    most = te.compute((rows,), lambda r: te.max(x[r, i].astype("int32"), axis=i), name="most")
    power = te.compute((rows, count), lambda r, c: table[most[r] - x[r, c].astype("int32")], name="power")
    total = te.compute((rows,), lambda r: te.sum(_rounded(power[r, j], i32(_SUM_BITS)), axis=j), name="total")
    zeros = te.compute((rows,), lambda r: tirx.clz(total[r]).astype("int32"), name="zeros")
    scale = reciprocal(by_row(lambda t, z: (t.astype("int64") << z.astype("int64")) - i64(ONE), total, zeros))

    def level(r: Expr, c: Expr) -> Expr:
        return _rounded(high_product(scale[r], power[r, c]), i32(_SUM_BITS + 31 - bits) - zeros[r])

    # Apart from `store`, whose clamping TVM takes for needless where it sees how a level is made.
    levels = te.compute((rows, count), level, name="level")
    largest = i32((1 << bits) - 1)
    store = te.compute(
        (rows, count), lambda r, c: (tirx.min(levels[r, c], largest) + i32(low)).astype(dtype), name="store"
    )
    return te.create_prim_func([x, table, store])


def _rounded(value: Expr, right: Expr) -> Expr:
    """A positive int32 over 2^right; adding a half before the shift might overflow."""
    return (value >> right) + ((value >> (right - i32(1))) & i32(1))


def exponentials(scale: float, beta: float) -> Array:
    """int32 [256]: exp(-d * scale * beta) with 31 fractional bits, for d = 0 ... 255; 0 where LiteRT takes it for 0."""
    real = min(beta * scale * (1 << (31 - _DIFF_BITS)), ONE - 1.0)
    m, left = multiplier(real)
    least = math.floor(((1 << _DIFF_BITS) - 1) * (1 << (31 - _DIFF_BITS)) / (1 << left)) if left >= 0 else 255
    found = [_exponential(_high_product(-d * (1 << max(left, 0)), m)) if d <= least else 0 for d in range(256)]
    return np.array(found, np.int32)


def _high_product(a: int, b: int) -> int:
    return (a * b + (1 << 30)) >> 31


def _exponential(a: int) -> int:
    """exp of a negative number with 26 fractional bits, gemmlowp's exp_on_negative_values."""
    if a == 0:
        return ONE - 1
    fraction = 31 - _DIFF_BITS
    quarter = 1 << (fraction - 2)
    within = (a & (quarter - 1)) - quarter
    found = _exponential_near_zero(within << _DIFF_BITS)
    rest = within - a
    constants = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)  # exp(-2^e) for e = -2 ... 4
    for exponent, constant in enumerate(constants, -2):
        if rest & (1 << (fraction + exponent)):
            found = _high_product(found, constant)
    return found


def _exponential_near_zero(a: int) -> int:
    """For -1/4 <= a < 0, 31 fractional bits: Taylor's series around -1/8."""
    x = a + (1 << 28)
    x2 = _high_product(x, x)
    x3, x4 = _high_product(x2, x), _high_product(x2, x2)
    x4_over_4 = _divided(x4, 2)
    rest = _divided(_high_product(x4_over_4 + x3, 715827883) + x2, 1)
    return 1895147668 + _high_product(1895147668, x + rest)


def _divided(value: int, right: int) -> int:
    """By 2^right, rounded, half away from zero."""
    low = value & ((1 << right) - 1)
    return (value >> right) + (low > ((1 << right) - 1 >> 1) + (value < 0))
