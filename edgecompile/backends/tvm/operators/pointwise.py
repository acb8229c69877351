"""Operators that make each element of the output of the elements at its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, Range, f32, i32, rounded


def pointwise(shapes: Sequence[tuple[tuple[int, ...], str]], shape: tuple[int, ...], of: Callable[..., Expr]) -> Any:
    """One block `store` over `shape`, of inputs that broadcast as NumPy's do. of: (elements) -> element."""
    inputs = [te.placeholder(each, dtype, f"x{number}") for number, (each, dtype) in enumerate(shapes)]

    def at(*indices: Expr) -> Expr:
        found = []
        for x, (each, _) in zip(inputs, shapes, strict=True):
            own = indices[len(indices) - len(each) :]
            found.append(x[tuple(i32(0) if size == 1 else i for size, i in zip(each, own, strict=True))])
        return of(*found)

    return te.create_prim_func([*inputs, te.compute(shape, at, name="store")])


def dequantized(value: Expr, of: Range) -> Expr:
    return (value.astype("int32") - i32(of.zero)).astype("float32") * f32(of.scale)


def quantized(value: Expr, into: Range) -> Expr:
    """LiteRT's QUANTIZE of a float32; half to even, where the reference rounds half away from zero."""
    return rounded(value * f32(1 / into.scale), into)


def compact(stored: tuple[int, ...], shape: tuple[int, ...], dtype: str, shift: int, into: str) -> Any:
    """Without the channels that pad it; `shift` is added to each byte, which then is of type `into`."""
    x = te.placeholder(stored, dtype, "x")

    def at(*indices: Expr) -> Expr:
        value = x[indices]
        return value if into == dtype else (value.astype("int32") + i32(shift)).astype(into)

    return te.create_prim_func([x, te.compute(shape, at, name="store")])


def minimum(value: Expr, limit: float) -> Expr:
    return tirx.min(value, f32(limit))
