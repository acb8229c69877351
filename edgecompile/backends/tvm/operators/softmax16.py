"""SOFTMAX of int16, as LiteRT computes it: exponentials and a reciprocal, each a table of lines between 513 values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, i32, i64, multiplier
from edgecompile.task import Array

_LEAST, _MOST = -(1 << 15), (1 << 15) - 1
_LINES = 512
_REACH = 10.0  # exp of less is taken for exp(-10)


def tables(scale: float, beta: float) -> tuple[Array, Array]:
    """int32 (exponentials by how far below a row's largest number, reciprocals by a sum without its leading zeros),
    [65536] each."""
    width = float(_MOST - _LEAST)
    m, shift = multiplier(float(np.float32(scale) * np.float32(beta)) / (_REACH / width))
    apart = -np.arange(1 << 16, dtype=np.int64)
    at = np.clip(_scaled(apart, m, shift) + _MOST, _LEAST, _MOST)
    exponentials = _between(at, _values(np.exp, _REACH / width, _MOST))
    every = np.arange(_LEAST, _MOST + 1)
    reciprocals = _between(every, _values(lambda x: 1 / (1 + x), 1 / width, _LEAST))
    return exponentials.astype(np.int32), reciprocals.astype(np.int32)


def _scaled(x: Array, m: int, shift: int) -> Array:
    left, right = max(shift, 0), max(-shift, 0)
    high: Array = ((x << left) * m + (1 << 30)) >> 31
    if right == 0:
        return high
    nudged: Array = (high + (1 << right - 1) + (high >> 63)) >> right
    return nudged


def _values(of: Callable[[Array], Array], scale: float, zero: int) -> Array:
    """[513] of a function over int16 of this scale, in 15 bits: moved by half of what a line is off in its middle."""
    first, last = (np.float32(scale) * np.float32(each - zero) for each in (_LEAST, _MOST))
    step = np.float32((last - first) / np.float32(_LINES))
    up = np.float32((1 << 16) / (np.float32(2.0 / 65535) * np.float32(65535)))

    def at(x: Array) -> Array:
        found: Array = np.asarray(of(x.astype(np.float64)), np.float32) * up
        return found

    places = first + np.arange(_LINES + 1, dtype=np.float32) * step
    value, middle = at(places), _rounded(at(places[:-1] + step / np.float32(2)))
    line = _rounded((value[1:] + _rounded(value[:-1])) / np.float32(2))
    found = _rounded(value)
    found[-1] = _rounded(at(last))
    found[:-1] -= _rounded((line - middle) / np.float32(2))
    return np.clip(found, _LEAST, _MOST).astype(np.int64)


def _rounded(x: Array) -> Array:
    """Halves away from 0."""
    return np.asarray(np.sign(x) * np.floor(np.abs(x) + np.float32(0.5)), np.float32)


def _between(at: Array, values: Array) -> Array:
    place, part = (at >> 7) + (_LINES // 2), at & 0x7F
    slope = values[place + 1] - values[place]
    found: Array = values[place] + ((slope * part + 64) >> 7)
    return found


def softmax(rows: int, stored: int, count: int) -> Any:
    """Over the first `count` of int16 [rows, stored], with what `tables` gives as further arguments."""
    x = te.placeholder((rows, stored), "int16", "x")
    powers, parts = (te.placeholder((1 << 16,), "int32", name) for name in ("powers", "parts"))
    i, j = te.reduce_axis((0, count), "i"), te.reduce_axis((0, count), "j")
    most = te.compute((rows,), lambda r: te.max(x[r, i].astype("int32"), axis=i), name="most")
    power = te.compute((rows, count), lambda r, c: powers[most[r] - x[r, c].astype("int32")], name="power")
    total = te.compute((rows,), lambda r: te.sum(power[r, j], axis=j), name="total")
    zeros = te.compute((rows,), lambda r: tirx.clz(total[r]).astype("int32"), name="zeros")

    def part(r: Expr) -> Expr:
        shifted = (total[r].astype("int64") << (zeros[r] - i32(1)).astype("int64")) + i64(1 << 13)
        place = (shifted >> i64(14)).astype("int32") - i32((1 << 15) + (1 << 16))
        return parts[tirx.max(tirx.min(place, i32(_MOST)), i32(_LEAST)) - i32(_LEAST)]

    reciprocal = te.compute((rows,), part, name="reciprocal")

    def level(r: Expr, c: Expr) -> Expr:
        right = (i32(31) - zeros[r]).astype("int64")
        product = power[r, c].astype("int64") * reciprocal[r].astype("int64")
        return ((product + (i64(1) << (right - i64(1)))) >> right).astype("int32")

    levels = te.compute((rows, count), level, name="level")
    store = te.compute(
        (rows, count),
        lambda r, c: tirx.max(tirx.min(levels[r, c], i32(_MOST)), i32(0)).astype("int16"),
        name="store",
    )
    return te.create_prim_func([x, powers, parts, store])
