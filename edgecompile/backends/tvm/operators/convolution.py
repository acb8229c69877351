"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, as sums with an epilogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr, f32
from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.operators.window import Window
from edgecompile.task import Array

GROUP = 4  # bytes of one dot product


@dataclass(frozen=True)
class Sum:
    """A convolution before its schedule: blocks `pad` (where `padded`), `sum` and `store`.

    scratch: shape and type of an argument behind the operands that `pad` is written to, None where it is inlined.
    grouped: whether the innermost loop of the sum goes over the bytes of a dot product.
    """

    function: Any
    padded: bool
    scratch: tuple[tuple[int, ...], str] | None
    vector: int
    weight_bytes: int
    grouped: bool = False


def pack(weights: Array, channels: int, vector: int, group: int = 1) -> Array:
    """[out, height, width, in] -> [out / vector, height, width, in / group, vector, group], padded with zeros."""
    out, height, width, inner = weights.shape
    whole = np.zeros((channels, height, width, -(-inner // group) * group), weights.dtype)
    whole[:out, ..., :inner] = weights
    split = whole.reshape(channels // vector, vector, height, width, -1, group)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1, 5))


def _window_of(x: Any, window: Window, fill: Expr) -> Any:
    """(height, width, channel) of the padded input, as an expression on `x`."""
    (height, width), (top, left), (reach_h, reach_w) = window.input, window.before, window.reach
    rows, columns = bool(top) or reach_h > height, bool(left) or reach_w > width

    def at(h: Expr, w: Expr, c: Expr, *more: Expr) -> Expr:
        inside = [h >= top, h < height + top] if rows else []
        inside += [w >= left, w < width + left] if columns else []
        inside += list(more)
        value = x[0, h - top, w - left, c]
        return tirx.if_then_else(tirx.all(*inside), value, fill) if inside else value

    return at


def convolution(
    channels: int, stored: int, window: Window, outputs: int, vector: int, epilogue: Epilogue, *, copied: bool = False
) -> Sum:
    """Of float32 [1, height, width, stored >= channels], with weights of `pack`.

    outputs: as stored, a multiple of vector. copied: the padded input is written to scratch memory.
    """
    x = te.placeholder((1, *window.input, stored), "float32", "x")
    w = te.placeholder((outputs // vector, *window.size, channels, vector, 1), "float32", "weights")
    padded = _window_of(x, window, f32(0))
    read = padded
    if window.padded:
        p = te.compute((*window.reach, channels), lambda h, w, c: padded(h, w, c), name="pad")
        read = lambda h, w, c: p[h, w, c]  # noqa: E731
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    c = te.reduce_axis((0, channels), "c")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    total = te.compute(
        (*window.output, outputs // vector, vector),
        lambda y, z, block, lane: te.sum(
            read(y * sh + kh * dh, z * sw + kw * dw, c) * w[block, kh, kw, c, lane, 0], axis=[kh, kw, c]
        ),
        name="sum",
    )
    copied = copied and window.padded
    function = _stored(total, x, w, window, outputs, vector, epilogue, *([p] if copied else []))
    scratch = ((*window.reach, channels), "float32") if copied else None
    return Sum(function, window.padded, scratch, vector, 4 * math.prod(window.size) * channels * outputs)


def folds(channels: int, window: Window) -> bool:
    """Whether a row of the window is better taken as so many channels of one column: where few channels, each filled up
    to a whole group, would make most of the products ones by zero."""
    columns, dilation = window.size[1], window.dilation[1]
    return dilation == 1 and 4 * -(-columns * channels // GROUP) <= 3 * columns * -(-channels // GROUP)


def byte_convolution(
    channels: int, stored: int, window: Window, outputs: int, vector: int, epilogue: Epilogue, dtype: str, zero: int
) -> Sum:
    """Of bytes [1, height, width, stored >= channels] in groups of four channels, with int8 weights of `pack`.

    dtype, zero: of the input, and what stands for 0 in it. The epilogue's bias has to hold what the zero point adds.
    Where it `folds`, the weights' columns are channels, too.
    """
    folded = folds(channels, window)
    size = (window.size[0], 1) if folded else window.size
    groups = -(-channels * (window.size[1] if folded else 1) // GROUP)
    x = te.placeholder((1, *window.input, stored), dtype, "x")
    w = te.placeholder((outputs // vector, *size, groups, vector, GROUP), "int8", "weights")
    fill = tirx.const(zero, dtype)
    padded = _window_of(x, window, fill)
    direct = not window.padded and stored >= groups * GROUP and not folded
    shape: tuple[int, ...]
    scratch: tuple[tuple[int, ...], str] | None = None
    if direct:
        read = padded
    elif folded:
        (rows, columns), step = window.reach, window.stride[1] * channels
        shape = (rows, (window.output[1] - 1) * step + groups * GROUP)

        def line(h: Expr, j: Expr) -> Expr:
            return tirx.if_then_else(j < columns * channels, padded(h, j // channels, j % channels), fill)

        p = te.compute(shape, line, name="pad")
        read, scratch = (lambda h, w, c: p[h, w * channels + c]), (shape, dtype)
    else:
        shape = (window.reach[0], window.reach[1], groups * GROUP)

        def at(h: Expr, w: Expr, c: Expr) -> Expr:
            return padded(h, w, c, *([c < channels] if groups * GROUP > stored else []))

        p = te.compute(shape, at, name="pad")
        read, scratch = (lambda h, w, c: p[h, w, c]), (shape, dtype)
    kh, kw = te.reduce_axis((0, size[0]), "kh"), te.reduce_axis((0, size[1]), "kw")
    g, b = te.reduce_axis((0, groups), "g"), te.reduce_axis((0, GROUP), "b")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    total = te.compute(
        (*window.output, outputs // vector, vector),
        lambda y, z, block, lane: te.sum(
            read(y * sh + kh * dh, z * sw + kw * dw, g * GROUP + b).astype("int32")
            * w[block, kh, kw, g, lane, b].astype("int32"),
            axis=[kh, kw, g, b],
        ),
        name="sum",
    )
    function = _stored(total, x, w, window, outputs, vector, epilogue, *([] if direct else [p]))
    return Sum(function, not direct, scratch, vector, math.prod(size) * groups * GROUP * outputs, grouped=True)


def depthwise(
    channels: tuple[int, int], stored: int, window: Window, vector: int, epilogue: Epilogue, dtype: str, zero: int,
    *, words: bool = False,
) -> Sum:  # fmt: skip
    """Of [1, height, width, stored input], with weights float32 [stored / vector, height, width, vector], or int16.

    channels: of the input, as stored, and how many filters each of them has. zero: what stands for 0 in bytes. Bytes
    are computed in float32 too: sums of less than 2^24 are exact in it; or with `words` in int32, of 16-bit factors.
    The epilogue's bias has to hold what the zero point adds.
    """
    words = words and dtype != "float32"
    factors = "int16" if words else "float32"
    given, multiplier = channels
    x = te.placeholder((1, *window.input, given), dtype, "x")
    w = te.placeholder((stored // vector, *window.size, vector), factors, "weights")
    fill = tirx.const(zero, dtype)
    padded = _window_of(x, window, fill)

    def real(h: Expr, w: Expr, c: Expr) -> Expr:
        value = padded(h, w, c)
        if words:
            return value.astype("int16")
        return value if dtype == "float32" else value.astype("int32").astype("float32")

    p = te.compute((*window.reach, given), real, name="pad")
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    sums = "int32" if words else "float32"
    total = te.compute(
        (*window.output, stored // vector, vector),
        lambda y, z, block, lane: te.sum(
            p[y * sh + kh * dh, z * sw + kw * dw, (block * vector + lane) // multiplier].astype(sums)
            * w[block, kh, kw, lane].astype(sums),
            axis=[kh, kw],
        ),
        name="sum",
    )
    function = _stored(total, x, w, window, stored, vector, epilogue, integers=dtype != "float32" and not words)
    return Sum(function, True, None, vector, 4 * math.prod(window.size) * stored)


def _stored(
    total: Any, x: Any, w: Any, window: Window, outputs: int, vector: int, epilogue: Epilogue, *scratch: Any,
    integers: bool = False,
) -> Any:  # fmt: skip
    def store(n: Expr, y: Expr, z: Expr, o: Expr) -> Expr:
        value = total[y, z, o // vector, o % vector]
        return epilogue.apply(value.astype("int32") if integers else value, o, (n, y, z, o))

    y = te.compute((1, *window.output, outputs), store, name="store")
    return te.create_prim_func([x, w, *epilogue.operands, *scratch, y])
