"""DEPTHWISE_CONV_2D of bytes by dot products: four columns of a channel lie beside each other, and make one product.

Every second column begins such a four, which serves two outputs: one with the weights as they are, and the next with
the weights a column further.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import te, tirx

from edgecompile.backends.tvm.arithmetic import Expr
from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.operators.convolution import GROUP, Input, Sum
from edgecompile.backends.tvm.operators.window import Window
from edgecompile.task import Array

PHASES = 2  # outputs that four columns serve
COLUMNS = 8  # outputs of a row at most that are summed at once
_UNROLLED = 16  # fours that make an output, at most


def groups(window: Window) -> int:
    """Fours of a row that make an output."""
    return -(-(window.size[1] + PHASES - 1) // GROUP)


def serves(window: Window) -> bool:
    """Whether it is quicker so than in floats: columns are taken one by one, in pairs."""
    width = window.output[1]
    adjacent = window.stride[1] == window.dilation[1] == 1 and window.apart == (1, 1)
    return adjacent and (width % PHASES == 0 or width <= COLUMNS) and window.size[0] * groups(window) <= _UNROLLED


def pack(weights: Array, window: Window, vector: int) -> Array:
    """int8 [height, width, channels] -> [channels / vector, phases, height, groups, vector, 4]; channels are a multiple
    of vector."""
    height, width, channels = weights.shape
    wide = np.zeros((PHASES, height, groups(window) * GROUP, channels), np.int8)
    for phase in range(PHASES):
        wide[phase, :, phase : phase + width] = weights
    split = wide.reshape(PHASES, height, -1, GROUP, channels // vector, vector)
    return np.ascontiguousarray(split.transpose(4, 0, 1, 2, 5, 3))


def depthwise(of: Input, window: Window, rows: int, vector: int, epilogue: Epilogue) -> Sum:
    """With weights of `pack`. Blocks `pad`, `interleaved` [batch, band, row, four, block, lane, column], `sum` [batch,
    row, four, phase, block, lane] and `store`.

    rows: of the output, a band, which divides it. The epilogue's bias has to hold what the zero point adds.
    """
    blocks, (top, left), (height, width) = of.stored // vector, window.before, window.input
    pairs = -(-window.output[1] // PHASES)
    fours = pairs + (groups(window) - 1) * GROUP // PHASES
    reach = window.reach[0], (fours - 1) * PHASES + GROUP
    x = te.placeholder((of.batch, height, width, of.stored), of.dtype, "x")
    w = te.placeholder((blocks, PHASES, window.size[0], groups(window), vector, GROUP), "int8", "weights")

    def inside(n: Expr, h: Expr, z: Expr, c: Expr) -> Expr:
        within = [h >= top, h < height + top] if top or reach[0] > height else []
        within += [z >= left, z < width + left] if left or reach[1] > width else []
        value = x[n, h - top, z - left, c]
        return tirx.if_then_else(tirx.all(*within), value, tirx.const(of.zero, of.dtype)) if within else value

    pad = te.compute((of.batch, *reach, of.stored), inside, name="pad")
    (down, _), (apart, _) = window.stride, window.dilation
    taken = (rows - 1) * down + (window.size[0] - 1) * apart + 1
    four = te.compute(
        (of.batch, window.output[0] // rows, taken, fours, blocks, vector, GROUP),
        lambda n, band, h, p, block, lane, b: pad[n, band * rows * down + h, p * PHASES + b, block * vector + lane],
        name="interleaved",
    )
    kh, g = te.reduce_axis((0, window.size[0]), "kh"), te.reduce_axis((0, groups(window)), "g")
    b = te.reduce_axis((0, GROUP), "b")

    def product(n: Expr, y: Expr, p: Expr, phase: Expr, block: Expr, lane: Expr) -> Expr:
        value = four[n, y // rows, y % rows * down + kh * apart, p + g * (GROUP // PHASES), block, lane, b]
        return te.sum(value.astype("int32") * w[block, phase, kh, g, lane, b].astype("int32"), axis=[kh, g, b])

    total = te.compute((of.batch, window.output[0], pairs, PHASES, blocks, vector), product, name="sum")

    def store(n: Expr, y: Expr, z: Expr, o: Expr) -> Expr:
        return epilogue.apply(total[n, y, z // PHASES, z % PHASES, o // vector, o % vector], o, (n, y, z, o))

    y = te.compute((of.batch, *window.output, of.stored), store, name="store")
    function = te.create_prim_func([x, w, *epilogue.operands, y])
    return Sum(function, True, None, vector, math.prod(map(int, w.shape)), grouped=True)
