"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, as sums with an epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr
from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.operators.window import Window
from edgecompile.task import Array

GROUP = 4  # bytes of one dot product


@dataclass(frozen=True)
class Input:
    """[batch, height, width, stored], of which a convolution reads `channels`. zero: what stands for 0 in integers."""

    batch: int
    channels: int
    stored: int
    dtype: str
    zero: int = 0


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


def pack(weights: Array, channels: int, vector: int, group: int = 1, beside: int = 1) -> Array:
    """[out, height, width, in] -> [out / vector / beside, height, width, in / group, beside, vector, group], with zeros
    for padding. beside: blocks of a vector whose weights for the same inputs lie side by side, one piece of memory for
    what is summed at once; without that axis where it is 1."""
    out, height, width, inner = weights.shape
    whole = np.zeros((channels, height, width, -(-inner // group) * group), weights.dtype)
    whole[:out, ..., :inner] = weights
    split = whole.reshape(channels // vector // beside, beside, vector, height, width, -1, group)
    packed = np.ascontiguousarray(split.transpose(0, 3, 4, 5, 1, 2, 6))
    return packed if beside > 1 else packed[:, :, :, :, 0]


def window_of(x: Any, window: Window, fill: Expr) -> Any:
    """(sample, height, width, channel) of the padded input, as an expression on `x`."""
    (height, width), (top, left), (reach_h, reach_w) = window.spread, window.before, window.reach
    rows, columns = bool(top) or reach_h > height, bool(left) or reach_w > width

    def at(n: Expr, h: Expr, w: Expr, c: Expr, *more: Expr) -> Expr:
        inside = [h >= top, h < height + top] if rows else []
        inside += [w >= left, w < width + left] if columns else []
        inside += list(more)
        places = []
        for index, before, apart in zip((h, w), window.before, window.apart, strict=True):
            own = index - before
            if apart > 1:
                inside.append(tirx.floormod(own, apart) == 0)
                own = tirx.floordiv(own, apart)
            places.append(own)
        value = x[n, places[0], places[1], c]
        return tirx.if_then_else(tirx.all(*inside), value, fill) if inside else value

    return at


def convolution(
    of: Input, window: Window, outputs: int, vector: int, epilogue: Epilogue, sums: str = "float32", group: int = 0,
    *, copied: bool = False, beside: int = 1,
) -> Sum:  # fmt: skip
    """With weights of `pack`: float32, or int8 where `sums`, the type that sums have, is an integer's.

    outputs: as stored, a multiple of vector. group: how many outputs see the same `of.channels` channels, the next
    ones the next channels; 0 where all see all. copied: the padded input is written to scratch memory. beside:
    as `pack` has it.
    """
    kind = "float32" if sums == "float32" else "int8"
    x = te.placeholder((of.batch, *window.input, of.stored), of.dtype, "x")
    blocks, lanes = outputs // vector, (beside, vector, 1) if beside > 1 else (vector, 1)
    w = te.placeholder((blocks // beside, *window.size, of.channels, *lanes), kind, "weights")
    padded = window_of(x, window, tirx.const(of.zero, of.dtype))
    read = padded
    shape = (of.batch, *window.reach, of.stored if group else of.channels)
    if window.padded:
        p = te.compute(shape, padded, name="pad")
        read = lambda n, h, w, c: p[n, h, w, c]  # noqa: E731
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    c = te.reduce_axis((0, of.channels), "c")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    groups = of.stored // of.channels

    def product(n: Expr, y: Expr, z: Expr, block: Expr, lane: Expr) -> Expr:
        channel = c
        if group:  # outputs beyond the last group are padding
            channel = tirx.min((block * vector + lane) // group, groups - 1) * of.channels + c
        value = read(n, y * sh + kh * dh, z * sw + kw * dw, channel)
        at = (block // beside, kh, kw, c, block % beside, lane, 0) if beside > 1 else (block, kh, kw, c, lane, 0)
        return te.sum(value.astype(sums) * w[at].astype(sums), axis=[kh, kw, c])

    total = te.compute((of.batch, *window.output, outputs // vector, vector), product, name="sum")
    copied = copied and window.padded
    function = _stored(total, x, w, window, outputs, vector, epilogue, *([p] if copied else []))
    size = 4 if sums == "float32" else 1
    scratch = (shape, of.dtype) if copied else None
    return Sum(function, window.padded, scratch, vector, size * math.prod(window.size) * of.channels * outputs)


def groups(of: Input, window: Window) -> int:
    """How many groups of four channels a row of the window is made of."""
    columns = window.size[1]
    return -(-columns * of.channels // GROUP) if folds(of, window) else columns * -(-of.channels // GROUP)


def folds(of: Input, window: Window) -> bool:
    """Whether a row of the window is taken as so many channels of one column: of fewer than four channels, which are
    padded as one piece so, and where it saves a quarter of the products. In memory such a row has to be one piece."""
    columns, channels = window.size[1], of.channels
    whole = window.dilation[1] == 1 and window.apart == (1, 1) and of.stored == channels
    fewer = 4 * -(-columns * channels // GROUP) <= 3 * columns * -(-channels // GROUP)
    return whole and (channels < GROUP or fewer)


def byte_convolution(of: Input, window: Window, outputs: int, vector: int, epilogue: Epilogue) -> Sum:
    """Of bytes, in groups of four channels, with int8 weights of `pack`.

    The epilogue's bias has to hold what the zero point adds. Where it `folds`, the weights' columns are channels, too.
    """
    folded = folds(of, window)
    size = (window.size[0], 1) if folded else window.size
    depth = groups(of, window) // size[1]
    x = te.placeholder((of.batch, *window.input, of.stored), of.dtype, "x")
    w = te.placeholder((outputs // vector, *size, depth, vector, GROUP), "int8", "weights")
    fill = tirx.const(of.zero, of.dtype)
    padded = window_of(x, window, fill)
    direct = not window.padded and of.stored >= depth * GROUP and not folded
    shape: tuple[int, ...]
    scratch: tuple[tuple[int, ...], str] | None = None
    if direct:
        read = padded
    elif folded:
        x, shape, line = _lines(of, window, depth * GROUP)
        channels, p = of.channels, te.compute(shape, line, name="pad")
        read, scratch = (lambda n, h, w, c: p[n, h, w * channels + c]), (shape, of.dtype)
    else:
        shape = (of.batch, *window.reach, depth * GROUP)

        def at(n: Expr, h: Expr, w: Expr, c: Expr) -> Expr:
            return padded(n, h, w, c, *([c < of.channels] if depth * GROUP > of.stored else []))

        p = te.compute(shape, at, name="pad")
        read, scratch = (lambda n, h, w, c: p[n, h, w, c]), (shape, of.dtype)
    kh, kw = te.reduce_axis((0, size[0]), "kh"), te.reduce_axis((0, size[1]), "kw")
    g, b = te.reduce_axis((0, depth), "g"), te.reduce_axis((0, GROUP), "b")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    total = te.compute(
        (of.batch, *window.output, outputs // vector, vector),
        lambda n, y, z, block, lane: te.sum(
            read(n, y * sh + kh * dh, z * sw + kw * dw, g * GROUP + b).astype("int32")
            * w[block, kh, kw, g, lane, b].astype("int32"),
            axis=[kh, kw, g, b],
        ),
        name="sum",
    )
    function = _stored(total, x, w, window, outputs, vector, epilogue, *([] if direct else [p]))
    return Sum(function, not direct, scratch, vector, math.prod(size) * depth * GROUP * outputs, grouped=True)


def _lines(of: Input, window: Window, last: int) -> tuple[Any, tuple[int, ...], Callable[..., Expr]]:
    """(the input in rows of channels of columns, shape of the same with padding, its elements). last: how many numbers
    the last column's window has."""
    (top, left), (height, width) = window.before, window.input
    begin, end = left * of.channels, (left + width) * of.channels
    x = te.placeholder((of.batch, height, width * of.channels), of.dtype, "x")
    shape = (of.batch, window.reach[0], (window.output[1] - 1) * window.stride[1] * of.channels + last)

    def line(n: Expr, h: Expr, j: Expr) -> Expr:
        inside = tirx.all(h >= top, h < height + top, j >= begin, j < end)
        return tirx.if_then_else(inside, x[n, h - top, j - begin], tirx.const(of.zero, of.dtype))

    return x, shape, line


def depthwise(
    of: Input, multiplier: int, stored: int, window: Window, vector: int, epilogue: Epilogue, types: tuple[str, str]
) -> Sum:
    """With weights [stored / vector, height, width, vector]. multiplier: how many filters each channel has. types: of
    factors and sums.

    Bytes may be computed in float32 too, as sums of less than 2^24 are exact in it. The epilogue's bias has to hold
    what the zero point adds.
    """
    factors, sums = types
    x = te.placeholder((of.batch, *window.input, of.stored), of.dtype, "x")
    w = te.placeholder((stored // vector, *window.size, vector), factors, "weights")
    padded = window_of(x, window, tirx.const(of.zero, of.dtype))

    def real(n: Expr, h: Expr, w: Expr, c: Expr) -> Expr:
        value = padded(n, h, w, c)
        if of.dtype == "float32" or factors == "int16":
            return value.astype(factors)
        return value.astype("int32").astype(sums)

    p = te.compute((of.batch, *window.reach, of.stored), real, name="pad")
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    total = te.compute(
        (of.batch, *window.output, stored // vector, vector),
        lambda n, y, z, block, lane: te.sum(
            p[n, y * sh + kh * dh, z * sw + kw * dw, (block * vector + lane) // multiplier].astype(sums)
            * w[block, kh, kw, lane].astype(sums),
            axis=[kh, kw],
        ),
        name="sum",
    )
    integers = of.dtype != "float32" and sums == "float32"
    function = _stored(total, x, w, window, stored, vector, epilogue, integers=integers)
    return Sum(function, True, None, vector, 4 * math.prod(window.size) * stored)


def row_sums(of: Input, window: Window) -> Any:
    """Blocks `sum` and `store` of what a convolution of bytes sees of its input: int32 [batch, height, width, 1]."""
    x = te.placeholder((of.batch, *window.input, of.stored), of.dtype, "x")
    padded = window_of(x, window, tirx.const(of.zero, of.dtype))
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    c = te.reduce_axis((0, of.channels), "c")
    (sh, sw), (dh, dw) = window.stride, window.dilation
    total = te.compute(
        (of.batch, *window.output, 1),
        lambda n, y, z, _: te.sum(padded(n, y * sh + kh * dh, z * sw + kw * dw, c).astype("int32"), axis=[kh, kw, c]),
        name="store",
    )
    return te.create_prim_func([x, total])


def _stored(
    total: Any, x: Any, w: Any, window: Window, outputs: int, vector: int, epilogue: Epilogue, *scratch: Any,
    integers: bool = False,
) -> Any:  # fmt: skip
    def store(n: Expr, y: Expr, z: Expr, o: Expr) -> Expr:
        value = total[n, y, z, o // vector, o % vector]
        return epilogue.apply(value.astype("int32") if integers else value, o, (n, y, z, o))

    y = te.compute((total.shape[0], *window.output, outputs), store, name="store")
    return te.create_prim_func([x, w, *epilogue.operands, *scratch, y])
