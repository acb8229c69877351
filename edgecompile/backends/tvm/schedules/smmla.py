"""Register tiles of blocks: pairs of the output's columns times channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import s_tir

from edgecompile.backends.tvm.intrinsics import register
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.operators.convolution import Sum
from edgecompile.backends.tvm.schedules.convolution import L1, share
from edgecompile.backends.tvm.schedules.plain import CHUNK

_SUMS = 16  # registers; the others hold what is multiplied, and what LLVM moves out of loops


@dataclass(frozen=True)
class Tile:
    """half: pairs of a row, of which some may overlap. pairs: that a tile has. wide: blocks of four channels in it."""

    half: int
    pairs: int
    wide: int


def tile(width: int, blocks: int) -> Tile:
    """With the fewest instructions for a row of the output, if each of a tile's factors is loaded once."""
    fitting = (
        Tile(-(-width // (2 * pairs)) * pairs, pairs, wide)
        for wide in (1, 2)
        for pairs in range(1, _SUMS // (2 * wide) + 1)
        if blocks % wide == 0
    )
    return min(
        (each for each in fitting if each.half <= width),
        key=lambda each: each.half * (1 + 1 / each.pairs + 1 / (2 * each.wide)),
    )


def convolution(made: Sum, tile: Tile, isa: InstructionSet, macs: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done)"""
    assert isa.matrix is not None
    sch = s_tir.Schedule(made.function)
    total, store, pad = (sch.get_sblock(name) for name in ("sum", "store", "pad"))
    n, y, side, z, o = sch.get_loops(store)
    height, vector = int(sch.get(y).extent), tile.wide * made.vector
    zo, zi = sch.split(z, [None, tile.pairs])
    oo, oi = sch.split(o, [None, vector])
    small = made.weight_bytes < L1
    sch.reorder(*((n, y, zo, oo) if small else (n, oo, y, zo)), zi, side, oi)
    sch.vectorize(oi)
    sch.unroll(side)
    sch.unroll(zi)
    sch.compute_at(total, oo if small else zo, preserve_unit_loops=True)
    work = isa.microseconds(macs, dots=True) / 2
    columns = tile.half // tile.pairs
    shared = share(sch, work, threads, {"y": y, "zo": zo, "oo": oo, "n": n}, small, height, columns)
    _, row, column, group, one, byte = sch.get_loops(pad)
    sch.reorder(one, group, byte)
    sch.vectorize(byte)
    if threads > 1 and made.scratch is not None and math.prod(made.scratch[0]) >= CHUNK:
        sch.parallel(row if int(sch.get(row).extent) > 1 else column)
    *_, zi, om, pair, i, j, kh, kw, g, b = sch.get_loops(total)
    sch.reorder(kh, kw, g, zi, om, pair, i, j, b)
    turns = next(n for n in (4, 2, 1) if int(sch.get(g).extent) % n == 0)
    sch.unroll(sch.split(g, [None, turns])[1])
    *first, lane, last = sch.get_loops(sch.decompose_reduction(total, kh))
    sch.vectorize(sch.fuse(lane, last))
    for loop in (zi, om, pair, *first[-3:]):
        sch.unroll(loop)
    sch.tensorize(i, register(isa.matrix))
    return sch.mod["main"], f"{2 * tile.pairs}x{vector} tile{shared}, {isa.matrix}"
