"""Fixed-point arithmetic of whole numbers a row, as gemmlowp has it, which LiteRT's reference kernels are made of.

A tensor for each intermediate value: as one expression some would have thousands of terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, high_product, i32, i64

ONE = 1 << 31
_HALF_ROOT = 1518500250  # of 2, 31 fractional bits


def by_row(of: Callable[..., Expr], *tensors: Any) -> Any:
    """A tensor of each row's numbers. of: (numbers of the tensors) -> number."""
    return te.compute(tensors[0].shape, lambda r: of(*(tensor[r] for tensor in tensors)))


def leading_zeros(value: Expr) -> Expr:
    """Of an int32 above 0."""
    return tirx.clz(value).astype("int32")


def shifted(value: Expr, left: int | Expr) -> Expr:
    """int32 times 2^left, saturated."""
    left = i64(left) if isinstance(left, int) else left.astype("int64")
    return tirx.max(tirx.min(value.astype("int64") << left, i64(ONE - 1)), i64(-ONE)).astype("int32")


def shifted_right(value: Expr, right: int | Expr) -> Expr:
    """int32 over 2^right, halves away from 0. right: 1 to 31."""
    right = i64(right) if isinstance(right, int) else right.astype("int64")
    wide = value.astype("int64")
    return ((wide + (i64(1) << (right - i64(1))) + (wide >> i64(63))) >> right).astype("int32")


def reciprocal(a: Any) -> Any:
    """1 / (1 + a), both with 31 fractional bits, of 0 <= a < 1: Newton and Raphson's method, three steps."""
    half = by_row(lambda a: ((a.astype("int64") + i64(ONE)) >> i64(1)).astype("int32"), a)
    # 48 / 17 - 32 / 17 * half, 29 fractional bits
    x = by_row(lambda half: i32(1515870810) + high_product(half, i32(-1010580540)), half)
    for _ in range(3):
        rest = by_row(lambda half, x: i32(1 << 29) - high_product(half, x), half, x)
        part = by_row(high_product, x, rest)
        x = by_row(lambda x, part: x + shifted(part, 2), x, part)
    return by_row(lambda x: shifted(x, 1), x)


def root_reciprocal(total: Any) -> tuple[Any, Any]:
    """1 / sqrt(total) as (m, shift) with m * 2^(shift - 31), of int32 from 0 on; 0 is taken for 1."""
    large = by_row(lambda t: tirx.Select(t >= i32(1 << 29), i32(2), i32(0)), total)
    kept = by_row(lambda t, large: tirx.max(t, i32(2)) >> large, total, large)
    pairs = by_row(lambda t: ((leading_zeros(t) - i32(1)) >> i32(1)) - i32(1), kept)
    shift = by_row(lambda pairs, large: i32(11) + (large >> i32(1)) - pairs, pairs, large)
    given = by_row(lambda t, pairs: (t << (pairs + pairs)) >> i32(1), kept, pairs)
    half = by_row(lambda given: shifted_right(given, 1), given)
    x = by_row(lambda _: i32(1 << 28), total)
    for _ in range(5):
        square = by_row(lambda x: high_product(x, x), x)
        cube = by_row(lambda square, x: shifted(high_product(square, x), 6), square, x)
        more = by_row(lambda x: high_product(i32((1 << 28) + (1 << 27)), x), x)
        less = by_row(high_product, half, cube)
        x = by_row(lambda more, less: shifted(more - less, 3), more, less)
    m = by_row(lambda x, s: high_product(x, i32(_HALF_ROOT)) << tirx.max(-s, i32(0)), x, shift)
    m = by_row(lambda m, t: tirx.Select(t <= i32(1), i32(ONE - 1), m), m, total)
    right = by_row(lambda s, t: tirx.Select(t <= i32(1), i32(0), -tirx.max(s, i32(0))), shift, total)
    return m, right


def logarithm(total: Any) -> Any:
    """ln(total) with 5 integer bits, of 12 integer bits and 1 or more: a rational function around 2^(-1/4), and the
    power of 2."""
    zeros = by_row(leading_zeros, total)
    whole = by_row(lambda t, z: shifted(high_product(t << (z - i32(1)), i32(_HALF_ROOT)), 1), total, zeros)
    less = by_row(lambda t: leading_zeros(high_product(t, i32(_HALF_ROOT))) - i32(1), total)
    r = by_row(lambda whole, t, less: tirx.min(whole, shifted(t, less)), whole, total, less)
    power = by_row(_power, zeros, less)
    p = by_row(lambda r: ((r.astype("int64") + i64(_FOURTH_ROOT + 1)) >> i64(1)).astype("int32"), r)
    q = by_row(lambda r: (r - i32(_FOURTH_ROOT)) << i32(1), r)
    square = by_row(lambda q: high_product(q, q), q)
    above = by_row(lambda q, r, s: high_product(q, r) + high_product(high_product(q, s), i32(_ABOVE)), q, r, square)
    below = by_row(
        lambda p, q, s: high_product(p, i32(_BELOW[0]) + q + high_product(i32(_BELOW[1]), s))
        + high_product(i32(_BELOW[2]), q),
        p, q, square,
    )  # fmt: skip
    part = by_row(lambda above, r: high_product(shifted_right(above, 6), r), above, reciprocal(below))
    return by_row(lambda power, part: shifted(high_product(power, i32(_LN2)) + part, 1), power, part)


# 31 fractional bits: 2^(-1/4), ln 2, and the coefficients of the rational function.
_FOURTH_ROOT, _LN2, _ABOVE, _BELOW = 1805811301, 1488522236, 117049297, (1057819769, 127690142, 638450708)


def _power(zeros: Expr, less: Expr) -> Expr:
    """Of 2, in quarters, with 6 integer bits: the larger of two estimates."""
    one = ((i32(12) - zeros) << i32(25)) + i32(1 << 23)
    return tirx.max(one, ((i32(12) - less) << i32(25)) - i32(1 << 23))
