"""Depthwise convolutions by dot products: bands of rows, whose columns are brought together in the first cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir

from edgecompile.backends.tvm.intrinsics import register
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.operators.convolution import GROUP, Sum
from edgecompile.backends.tvm.operators.interleaved import COLUMNS, PHASES, groups
from edgecompile.backends.tvm.operators.window import Window

_CACHE = 40_000  # bytes of a band, with its columns as they were and brought together
_BLOCKS = 4


@dataclass(frozen=True)
class Band:
    """What is computed at once. rows: of the output. blocks: of as many channels as a register has lanes."""

    rows: int
    blocks: int


def band(window: Window, vector: int, blocks: int, threads: int) -> Band:
    """As many rows as the cache holds, since those at a band's edges are brought together for two of them; threads take
    equal numbers of bands where that can be."""
    height, width = window.output
    along = (window.size[0] - 1) * window.dilation[0] + 1
    row = (width + GROUP * groups(window)) * (1 + GROUP // PHASES) * vector

    def fits(rows: int, wide: int) -> bool:
        return ((rows - 1) * window.stride[0] + along) * row * wide <= _CACHE

    found = [
        ((height // rows) % threads == 0, rows, wide)
        for rows in range(1, height + 1)
        for wide in range(1, min(blocks, _BLOCKS) + 1)
        if height % rows == 0 and blocks % wide == 0 and (fits(rows, wide) or rows == wide == 1)
    ]
    _, rows, wide = max(found)
    return Band(rows, wide)


def depthwise(made: Sum, size: Band, isa: InstructionSet, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done)"""
    sch = s_tir.Schedule(made.function)
    pad, four, total, store = (sch.get_sblock(name) for name in ("pad", "interleaved", "sum", "store"))
    n, y, z, o = sch.get_loops(store)
    width = int(sch.get(z).extent)
    across = width if width <= COLUMNS else next(n for n in range(COLUMNS, 0, -PHASES) if width % n == 0)
    yo, yi = sch.split(y, [None, size.rows])
    zo, zi = sch.split(z, [None, across])
    oo, om, oi = sch.split(o, [None, size.blocks, made.vector])
    sch.reorder(n, yo, oo, om, yi, zo, zi, oi)
    sch.vectorize(oi)
    sch.unroll(zi)
    sch.compute_at(total, zo, preserve_unit_loops=True)
    sch.compute_at(four, oo, preserve_unit_loops=True)
    sch.compute_at(pad, oo, preserve_unit_loops=True)
    for block in (pad, four):
        sch.set_scope(block, 0, "local")
    note = ""
    if threads > 1:
        sch.parallel(sch.fuse(n, yo))
        note = f", bands by {threads} threads"
    sch.vectorize(sch.split(sch.get_loops(pad)[-1], [None, made.vector])[1])
    sch.tensorize(sch.get_loops(four)[-2], register(f"interleave{made.vector * 32}"))
    *_, p, f, block, lane, kh, g, b = sch.get_loops(total)
    sch.reorder(kh, g, p, f, block, lane, b)
    for loop in (kh, g, p, f):
        sch.unroll(loop)
    init = sch.decompose_reduction(total, kh)
    *_, first, second, _, last = sch.get_loops(init)
    sch.vectorize(last)
    sch.unroll(second)
    sch.unroll(first)
    assert isa.each is not None
    sch.tensorize(lane, register(isa.each))
    return sch.mod["main"], f"{size.rows}x{across}x{made.vector} tile, {isa.each}{note}"
