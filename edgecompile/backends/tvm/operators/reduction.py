"""Poolings, and reductions over any axes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, i32
from edgecompile.backends.tvm.operators.window import Window


def average(
    batch: int, stored: int, dtype: str, window: Window, zero: int, finish: Callable[[Expr, Expr], Expr]
) -> Any:
    """Blocks `sum` and `store` of AVERAGE_POOL_2D and MEAN over height and width, padding not counted.

    zero: subtracted from each byte. finish: (sum, how many) -> what is stored.
    """
    x = te.placeholder((batch, *window.input, stored), dtype, "x")
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    (sh, sw), (top, left), (height, width) = window.stride, window.before, window.input
    whole = "float32" if dtype == "float32" else "int32"

    def element(n: Expr, h: Expr, w: Expr, c: Expr) -> Expr:
        value = x[n, h - top, w - left, c]
        value = value if dtype == "float32" else value.astype("int32") - i32(zero)
        if not window.padded:
            return value
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, value, tirx.const(0, whole))

    total = te.compute(
        (batch, *window.output, stored),
        lambda n, y, z, c: te.sum(element(n, y * sh + kh, z * sw + kw, c), axis=[kh, kw]),
        name="sum",
    )

    def count(index: Expr, axis: int) -> Expr:
        first = index * window.stride[axis] - window.before[axis]
        return tirx.min(first + window.size[axis], i32(window.input[axis])) - tirx.max(first, i32(0))

    def store(n: Expr, y: Expr, z: Expr, c: Expr) -> Expr:
        many = count(y, 0) * count(z, 1) if window.padded else i32(window.size[0] * window.size[1])
        return finish(total[n, y, z, c], many)

    return te.create_prim_func([x, te.compute((batch, *window.output, stored), store, name="store")])


def maximum(batch: int, stored: int, dtype: str, window: Window, finish: Callable[[Expr], Expr]) -> Any:
    """Blocks `sum` (the largest) and `store` of MAX_POOL_2D."""
    x = te.placeholder((batch, *window.input, stored), dtype, "x")
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    (sh, sw), (top, left), (height, width) = window.stride, window.before, window.input

    def element(n: Expr, h: Expr, w: Expr, c: Expr) -> Expr:
        value = x[n, h - top, w - left, c]
        if not window.padded:
            return value
        inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
        return tirx.if_then_else(inside, value, tirx.min_value(dtype))

    most = te.compute(
        (batch, *window.output, stored),
        lambda n, y, z, c: te.max(element(n, y * sh + kh, z * sw + kw, c), axis=[kh, kw]),
        name="sum",
    )
    return te.create_prim_func([x, te.compute(most.shape, lambda *at: finish(most[at]), name="store")])


def over(
    shape: tuple[int, ...], dtype: str, axes: Collection[int], kind: str, zero: int, finish: Callable[[Expr], Expr]
) -> Any:
    """Blocks `sum` and `store` of a reduction ("sum", "max" or "min"), without the axes that it goes over.

    zero: subtracted from each byte. finish: what came out -> what is stored.
    """
    x = te.placeholder(shape, dtype, "x")
    inner = {axis: te.reduce_axis((0, shape[axis]), f"r{axis}") for axis in axes}
    left = tuple(size for axis, size in enumerate(shape) if axis not in inner) or (1,)
    combine = {"sum": te.sum, "max": te.max, "min": te.min}[kind]

    def reduced(*at: Expr) -> Expr:
        places = iter(at)
        value = x[tuple(inner[axis].var if axis in inner else next(places) for axis in range(len(shape)))]
        return combine(value if dtype == "float32" else value.astype("int32") - i32(zero), axis=list(inner.values()))

    total = te.compute(left, reduced, name="sum")
    return te.create_prim_func([x, te.compute(left, lambda *at: finish(total[at]), name="store")])
