"""Operators that make a row of a whole row, or one number."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, exponential, f32

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
