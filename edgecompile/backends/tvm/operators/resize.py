"""RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR: where each output lies in the input is known, and comes as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, f32
from edgecompile.task import Array

_BITS = 10  # of a position's fraction, in integers


@dataclass(frozen=True)
class Axis:
    """Of each output along one axis: the inputs before and behind it (int32), and what part of the way it is from one
    to the other (float32, or integers of 1024)."""

    lower: Array
    upper: Array
    part: Array


def nearest(sizes: tuple[int, int], options: Mapping[str, Any]) -> Array:
    """int32: the input that each output is. sizes: of input and output."""
    given, made = sizes
    corners, middle = bool(options.get("align_corners")), bool(options.get("half_pixel_centers"))
    scale = _scale(sizes, corners)
    at = (np.arange(made, dtype=np.float32) + np.float32(0.5 if middle else 0)) * scale
    # Halves are rounded away from 0, in float32.
    found = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
    return np.asarray(np.clip(found, 0, given - 1), np.int32)


def in_floats(sizes: tuple[int, int], options: Mapping[str, Any]) -> Axis:
    given, made = sizes
    scale, at = _scale(sizes, bool(options.get("align_corners"))), np.arange(made, dtype=np.float32)
    half = np.float32(0.5)
    at = (at + half) * scale - half if options.get("half_pixel_centers") else at * scale
    lower = np.maximum(np.floor(at), 0).astype(np.int32)
    upper = np.minimum(np.ceil(at), given - 1).astype(np.int32)
    return Axis(np.minimum(lower, given - 1), np.maximum(upper, 0), (at - lower).astype(np.float32))


def in_integers(sizes: tuple[int, int], options: Mapping[str, Any]) -> Axis:
    given, made = sizes
    if options.get("align_corners") and made > 1:
        scale = ((given - 1 << _BITS) + (made - 1) // 2) // (made - 1)
    else:
        scale = ((given << _BITS) + made // 2) // made
    at = np.arange(made, dtype=np.int64) * scale
    if options.get("half_pixel_centers"):
        at += scale // 2 - (1 << _BITS - 1)
    lower = np.maximum(np.trunc(at / (1 << _BITS)).astype(np.int64), 0)
    upper = np.minimum(np.trunc((at + (1 << _BITS) - 1) / (1 << _BITS)).astype(np.int64), given - 1)
    part = at - (lower << _BITS)
    return Axis(*(each.astype(np.int32) for each in (lower, upper, part)))


def _scale(sizes: tuple[int, int], corners: bool) -> Any:
    given, made = sizes
    if corners and made > 1:
        return np.float32(np.float32(given - 1) / np.float32(made - 1))
    return np.float32(np.float32(given) / np.float32(made))


def taken(stored: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> Any:
    """Of [n, height, width, channels], and tables of rows and columns."""
    x = te.placeholder(stored, dtype, "x")
    rows, columns = (te.placeholder((size,), "int32", f"t{number}") for number, size in enumerate(shape[1:3]))
    y = te.compute(shape, lambda n, i, j, c: x[n, rows[i], columns[j], c], name="store")
    return te.create_prim_func([x, rows, columns, y])


def between(stored: tuple[int, ...], shape: tuple[int, ...], dtype: str, zero: int) -> Any:
    """Of [n, height, width, channels], and the tables of `Axis` for rows and for columns. zero: of a .tflite's own
    integers as they are stored, as halves are rounded away from 0."""
    whole, wide = dtype != "float32", "int64" if dtype == "int16" else "int32"
    x = te.placeholder(stored, dtype, "x")
    kinds = ("int32", "int32", "int32" if whole else "float32")
    tables = [te.placeholder((size,), kind, f"t{i}") for size in shape[1:3] for i, kind in enumerate(kinds)]
    top, bottom, down, left, right, across = tables
    one = tirx.const(1 << _BITS, wide) if whole else f32(1)

    def store(n: Expr, i: Expr, j: Expr, c: Expr) -> Expr:
        def at(row: Expr, column: Expr) -> Expr:
            value = x[n, row, column, c]
            return value.astype(wide) - tirx.const(zero, wide) if whole else value

        below, beside = (part.astype(wide) if whole else part for part in (down[i], across[j]))
        total = (
            at(top[i], left[j]) * (one - below) * (one - beside)
            + at(bottom[i], left[j]) * below * (one - beside)
            + at(top[i], right[j]) * (one - below) * beside
            + at(bottom[i], right[j]) * below * beside
        )
        if not whole:
            return total
        up = tirx.const(1 << 2 * _BITS - 1, wide)
        nearest = tirx.truncdiv(total + tirx.Select(total > 0, up, -up), tirx.const(1 << 2 * _BITS, wide))
        return (nearest + tirx.const(zero, wide)).astype(dtype)

    return te.create_prim_func([x, *tables, te.compute(shape, store, name="store")])
