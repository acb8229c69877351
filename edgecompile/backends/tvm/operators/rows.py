"""Operators that make a row of a whole row, or one number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import (
    Expr,
    Range,
    clamped,
    exponential,
    f32,
    i32,
    multiplier,
    scaled,
)
from edgecompile.backends.tvm.operators.fixed_point import logarithm, root_reciprocal, shifted_right
from edgecompile.task import Array

_LEAST = 1e-6  # what LiteRT divides by where all of a row is 0
_NONE = 2**31 - 1


def log_softmax(rows: int, stored: int, count: int) -> Any:
    """Of float32 [rows, stored], whose first `count` channels there are."""
    x = te.placeholder((rows, stored), "float32", "x")
    i, j = te.reduce_axis((0, count), "i"), te.reduce_axis((0, count), "j")
    most = te.compute((rows,), lambda r: te.max(x[r, i], axis=i), name="most")
    power = te.compute((rows, count), lambda r, c: exponential(x[r, c] - most[r]), name="power")
    total = te.compute((rows,), lambda r: te.sum(power[r, j], axis=j), name="total")
    logarithm = te.compute((rows,), lambda r: tirx.log(total[r]), name="logarithm")
    store = te.compute((rows, count), lambda r, c: x[r, c] - most[r] - logarithm[r], name="store")
    return te.create_prim_func([x, store])


def of_length_1(rows: int, stored: int, count: int) -> Any:
    """Of float32 [rows, stored], whose first `count` channels there are: divided by their length."""
    x = te.placeholder((rows, stored), "float32", "x")
    i = te.reduce_axis((0, count), "i")
    square = te.compute((rows,), lambda r: te.sum(x[r, i] * x[r, i], axis=i), name="square")
    length = te.compute((rows,), lambda r: tirx.max(tirx.sqrt(square[r]), f32(_LEAST)), name="length")
    return te.create_prim_func([x, te.compute((rows, count), lambda r, c: x[r, c] / length[r], name="store")])


def bytes_of_length_1(rows: int, stored: int, count: int, zero: int, into: Range, unsigned: bool) -> Any:
    """`of_length_1` of bytes, as LiteRT computes it. unsigned: in the .tflite, where it rounds twice."""
    x = te.placeholder((rows, stored), into.dtype, "x")
    i = te.reduce_axis((0, count), "i")

    def real(r: Expr, c: Expr) -> Expr:
        return x[r, c].astype("int32") - i32(zero)

    square = te.compute((rows,), lambda r: te.sum(real(r, i) * real(r, i), axis=i), name="square")
    m, shift = root_reciprocal(square)

    def store(r: Expr, c: Expr) -> Expr:
        if not unsigned:
            return clamped(scaled(real(r, c), m[r], shift[r] + i32(7)), into)
        return clamped(scaled(real(r, c) << i32(7), m[r], shift[r]), into)

    return te.create_prim_func([x, te.compute((rows, count), store, name="store")])


def log_softmax_of_bytes(rows: int, stored: int, count: int, scale: float, into: Range) -> Any:
    """As LiteRT's reference kernels, of tables [256] by how far a byte is below the largest: exponentials as
    softmax.exponentials gives them, and what `differences` gives."""
    x = te.placeholder((rows, stored), into.dtype, "x")
    exponentials, below = (te.placeholder((256,), "int32", name) for name in ("exponentials", "below"))
    i, j = te.reduce_axis((0, count), "i"), te.reduce_axis((0, count), "j")
    most = te.compute((rows,), lambda r: te.max(x[r, i].astype("int32"), axis=i), name="most")

    def apart(r: Expr, c: Expr) -> Expr:
        return most[r] - x[r, c].astype("int32")

    total = te.compute((rows,), lambda r: te.sum(shifted_right(exponentials[apart(r, j)], 12), axis=j), name="total")
    log = logarithm(total)
    m, left, farthest = _scaling(scale)
    back, right = multiplier((1 << (31 - left)) / m)
    least = te.compute(
        (rows,),
        lambda r: tirx.max(scaled(log[r] + tirx.min_value("int32"), i32(back), i32(right)), i32(-farthest - 1)),
        name="least",
    )

    def store(r: Expr, c: Expr) -> Expr:
        found = clamped(shifted_right(below[apart(r, c)] - log[r], 22), into)
        return tirx.Select(-apart(r, c) > least[r], found, tirx.const(into.low, into.dtype))

    return te.create_prim_func([x, exponentials, below, te.compute((rows, count), store, name="store")])


def differences(scale: float) -> Array:
    """int32 [256]: -d * scale with 26 fractional bits, for d = 0 ... 255; 0 where that is too far below."""
    m, left, least = _scaling(scale)
    found = [(-d * (1 << left) * m + (1 << 30)) >> 31 if d <= least else 0 for d in range(256)]
    return np.array(found, np.int32)


def _scaling(scale: float) -> tuple[int, int, int]:
    """(m, shift to the left, the farthest below a row's largest) that bytes of a scale are brought to 26 fractional
    and 5 integer bits with."""
    m, left = multiplier(min(scale * (1 << 26), (1 << 31) - 1.0))
    return m, left, math.floor(31 * (1 << 26) / (1 << left))


def place_of(shape: tuple[int, ...], dtype: str, axis: int, most: bool, into: str) -> Any:
    """The first index along `axis` of the largest, or the least, without that axis."""
    x = te.placeholder(shape, dtype, "x")
    left = (*shape[:axis], *shape[axis + 1 :]) or (1,)
    i, j = te.reduce_axis((0, shape[axis]), "i"), te.reduce_axis((0, shape[axis]), "j")
    combine = te.max if most else te.min

    def at(places: tuple[Expr, ...], index: Any) -> Expr:
        rest = places if len(shape) > 1 else ()
        place = (*rest[:axis], index.var, *rest[axis:])
        return x[place]

    best = te.compute(left, lambda *places: combine(at(places, i), axis=i), name="best")
    none = tirx.const(_NONE, "int32")

    def first(*places: Expr) -> Expr:
        return te.min(tirx.Select(tirx.EQ(at(places, j), best[places]), j.var, none), axis=j)

    found = te.compute(left, first, name="first")
    return te.create_prim_func([x, te.compute(left, lambda *places: found[places].astype(into), name="store")])


def running(shape: tuple[int, ...], dtype: str, axis: int, exclusive: bool, reverse: bool) -> Any:
    """Sums of all up to each along `axis`."""
    x = te.placeholder(shape, dtype, "x")
    k = te.reduce_axis((0, shape[axis]), "k")

    def store(*at: Expr) -> Expr:
        own, other = (k.var, at[axis]) if not reverse else (at[axis], k.var)
        seen = own < other if exclusive else own <= other
        place = (*at[:axis], k.var, *at[axis + 1 :])
        return te.sum(tirx.if_then_else(seen, x[place], tirx.const(0, dtype)), axis=k)

    return te.create_prim_func([x, te.compute(shape, store, name="store")])
