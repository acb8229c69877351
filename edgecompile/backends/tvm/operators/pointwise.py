"""Operators that make each element of the output of the elements at its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, Range, away_from_0, clamped, f32, i32, rounded

Indices = tuple[Expr, ...]


def indexed(
    inputs: Sequence[tuple[tuple[int, ...], str]], shape: tuple[int, ...], of: Callable[[list[Any], Indices], Expr]
) -> Any:
    """One block `store` over `shape`. of: (the inputs, indices of the output) -> element."""
    placed = [te.placeholder(each, dtype, f"x{number}") for number, (each, dtype) in enumerate(inputs)]
    return te.create_prim_func([*placed, te.compute(shape, lambda *at: of(placed, at), name="store")])


def pointwise(inputs: Sequence[tuple[tuple[int, ...], str]], shape: tuple[int, ...], of: Callable[..., Expr]) -> Any:
    """`indexed` of inputs that broadcast as NumPy's do. of: (elements) -> element."""
    if all(each == shape for each, _ in inputs):  # else TVM computes each element's address by itself
        shape = (math.prod(shape),)
        inputs = [(shape, dtype) for _, dtype in inputs]
    return indexed(inputs, shape, lambda placed, at: of(*(broadcast(x, at) for x in placed)))


def broadcast(x: Any, at: Indices) -> Expr:
    """Its element for these indices of an output."""
    own = at[len(at) - len(x.shape) :]
    return x[tuple(i32(0) if int(size) == 1 else i for size, i in zip(x.shape, own, strict=True))]


def looked_up(shape: tuple[int, ...], dtype: str, into: str) -> Any:
    """Of integers, each replaced by what a table of all values has for it, the least value first."""
    bits = 16 if dtype == "int16" else 8
    first = 0 if dtype == "uint8" else 1 << (bits - 1)
    inputs = [(shape, dtype), ((1 << bits,), into)]
    return indexed(inputs, shape, lambda x, at: x[1][x[0][at].astype("int32") + i32(first)])


def truth(value: Expr) -> Expr:
    """A condition as it is stored."""
    return tirx.Select(value, tirx.const(1, "uint8"), tirx.const(0, "uint8"))


def dequantized(value: Expr, of: Range) -> Expr:
    return (value.astype("int32") - i32(of.zero)).astype("float32") * f32(of.scale)


def quantized(value: Expr, into: Range, exact: bool) -> Expr:
    """QUANTIZE of a float32; exact: as the reference kernel divides, and rounds halves away from zero."""
    if not exact:
        return rounded(value * f32(1 / into.scale), into)
    limit = f32(1 << 20)  # more than any byte, less than what int32 holds
    return clamped(away_from_0(tirx.max(tirx.min(value / f32(into.scale), limit), -limit)), into)


def filled(shape: tuple[int, ...], dtype: str, number: int) -> Any:
    return indexed([], (math.prod(shape),), lambda _, __: tirx.const(number, dtype))


def compact(stored: tuple[int, ...], shape: tuple[int, ...], dtype: str, into: str) -> Any:
    """Without the channels that pad it; 128 more or less where bytes become unsigned or signed: their first bit."""

    def at(placed: list[Any], indices: Indices) -> Expr:
        value = placed[0][indices]
        return (
            value
            if into == dtype
            else tirx.reinterpret(into, value ^ tirx.const(-128 if dtype == "int8" else 128, dtype))
        )

    if stored == shape:
        stored = shape = (math.prod(shape),)
    return indexed([(stored, dtype)], shape, at)
