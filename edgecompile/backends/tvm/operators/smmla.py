"""Convolutions of bytes by products of blocks: sums of two columns of the output, each with two channels.

The columns of a pair are about half a row apart. So every tap of the window reads pairs that are as far apart, and the
input is copied once, in pairs, however much the windows overlap. Columns in the middle may be in two pairs.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx
from tvm.ir import Range
from tvm.s_tir import SBlock, SBlockRealize

from edgecompile.backends.tvm.arithmetic import Expr
from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.operators.convolution import Input, Sum, window_of
from edgecompile.backends.tvm.operators.convolution import groups as dot_groups
from edgecompile.backends.tvm.operators.window import Window

GROUP = 8  # bytes of a row of a block
VECTOR = 4  # channels of the output, of which a pair's sums fill two registers


def fits(of: Input, window: Window) -> bool:
    """Whether it takes clearly fewer instructions than dot products do: of few columns or channels much is padding."""
    width = window.output[1]
    blocks = -(-width // 2) * 2 * window.size[1] * -(-of.channels // GROUP)
    return 4 * blocks <= 3 * width * dot_groups(of, window)


def convolution(of: Input, window: Window, outputs: int, epilogue: Epilogue, half: int) -> Sum:
    """With int8 weights of `pack`, in groups of eight channels. `sum` is [batch, height, half, outputs / 4, 2 pairs of
    channels, 2 columns, 2 channels]. half: pairs of columns.

    The epilogue's bias has to hold what the zero point adds.
    """
    groups, apart = -(-of.channels // GROUP), window.output[1] - half
    (sh, sw), (dh, dw) = window.stride, window.dilation
    x = te.placeholder((of.batch, *window.input, of.stored), of.dtype, "x")
    w = te.placeholder((outputs // VECTOR, *window.size, groups, VECTOR, GROUP), "int8", "weights")
    padded = window_of(x, window, tirx.const(of.zero, of.dtype))
    shape = (of.batch, window.reach[0], (half - 1) * sw + (window.size[1] - 1) * dw + 1, groups, 2, GROUP)
    whole = math.gcd(of.stored, GROUP)  # so many channels are there all, or none of them

    def paired(n: Expr, h: Expr, column: Expr, g: Expr, i: Expr, b: Expr) -> Expr:
        c = g * GROUP + b
        inside = [c // whole < of.stored // whole] if groups * GROUP > of.stored else []
        return padded(n, h, column + i * (apart * sw), c, *inside)

    p = te.compute(shape, paired, name="pad")
    kh, kw = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, window.size[1]), "kw")
    g, b = te.reduce_axis((0, groups), "g"), te.reduce_axis((0, GROUP), "b")
    total = te.compute(
        (of.batch, window.output[0], half, outputs // VECTOR, 2, 2, 2),
        lambda n, y, z, block, pair, i, j: te.sum(
            p[n, y * sh + kh * dh, z * sw + kw * dw, g, i, b].astype("int32")
            * w[block, kh, kw, g, pair * 2 + j, b].astype("int32"),
            axis=[kh, kw, g, b],
        ),
        name="sum",
    )

    def store(n: Expr, y: Expr, i: Expr, z: Expr, o: Expr) -> Expr:
        value = total[n, y, z, o // VECTOR, o % VECTOR // 2, i, o % 2]
        return epilogue.apply(value, o, (n, y, i * apart + z, o))

    y = te.compute((of.batch, window.output[0], 2, half, outputs), store, name="store")
    function = _in_rows(te.create_prim_func([x, w, *epilogue.operands, p, y]), window.output[1], apart)
    size = math.prod(window.size) * groups * GROUP * outputs
    return Sum(function, True, (shape, of.dtype), VECTOR, size, grouped=True)


def _in_rows(function: Any, width: int, apart: int) -> Any:
    """The function, whose output is [batch, height, 2, half, channels], with one of [batch, height, width, channels],
    of which TE would write no element twice."""
    *params, halves = function.params
    n, height, _, _, channels = halves.shape
    rows = tirx.decl_buffer((n, height, width, channels), halves.dtype, halves.name)

    def placed(node: Any) -> Any:
        if isinstance(node, tirx.For):
            return tirx.For(node.loop_var, node.min, node.extent, node.kind, placed(node.body))
        block = node.block
        x, y, i, z, o = (each.var for each in block.iter_vars)
        at = [x, y, i * apart + z, o]
        writes = [tirx.BufferRegion(rows, [Range.from_min_extent(index, 1) for index in at])]
        body = tirx.BufferStore(rows, block.body.value, at)
        made = SBlock(block.iter_vars, block.reads, writes, block.name_hint, body)
        return SBlockRealize(node.iter_values, node.predicate, made)

    root = function.body.block
    *others, last = root.body.seq
    body = tirx.SeqStmt([*others, placed(last)])
    block = SBlock([], [], [], root.name_hint, body, alloc_buffers=root.alloc_buffers)
    whole = SBlockRealize([], function.body.predicate, block)
    return tirx.PrimFunc([*params, rows], whole, function.ret_type, function.attrs)
