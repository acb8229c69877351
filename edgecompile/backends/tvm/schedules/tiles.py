"""Blocks of tile registers (AMX) for convolutions of single pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

from edgecompile.backends.tvm.intrinsics import amx
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.operators.convolution import Sum
from edgecompile.backends.tvm.schedules.convolution import L1, WORTH
from edgecompile.task import Array

# Cycles, the least of 30 rounds on one core of an Intel Xeon (Emerald Rapids, November 2026). Of a product, however few
# its rows are: those take less, but blocks of few rows were slower than this says. Of a load: from the first cache, and
# about that from beyond it; loads go on beside products, all but a part of them.
_PRODUCT, _LOAD, _FAR = 16, 8, 50
_EXPOSED = 0.2
_STORE = 24  # storing a tile of sums and reading it again
_CONFIGURE = 214  # setting what tiles are, and letting go of them
_VECTORS = 100  # multiply-accumulates a cycle without tiles, as convolutions reach them
_SURELY = 0.9  # of the time without tiles: what is estimated to take less is taken


def block(pixels: int, blocks: int, groups: int) -> amx.Block | None:
    """The best for so many pixels, blocks of 16 outputs and groups of four channels; None where vectors do as well."""
    depth = next(size for size in range(min(groups, amx.BYTES // amx.GROUP), 0, -1) if groups % size == 0)
    steps = groups // depth

    def cycles(made: amx.Block) -> float:
        """For each pixel and block."""
        products = _PRODUCT * made.sums
        again = made.pixels < pixels and made.blocks * steps * made.groups * amx.BYTES < L1
        loads = _LOAD * len(made.rows) + (_LOAD if again else _FAR) * made.blocks
        each = steps * (max(products, loads) + _EXPOSED * loads) + _STORE * made.sums
        return each / (made.pixels * made.blocks) + _CONFIGURE / (pixels * blocks)

    found = [
        amx.Block(_rows(size), wide, depth, steps)
        for size in range(2, min(pixels, amx.ROWS * amx.REGISTERS) + 1)
        for wide in range(1, blocks + 1)
        if pixels % size == 0 and blocks % wide == 0 and _fits(_rows(size), wide)
    ]
    best = min(found, key=cycles, default=None)
    return best if best is not None and cycles(best) < _SURELY * groups * amx.GROUP * amx.LANES / _VECTORS else None


def _rows(pixels: int) -> tuple[int, ...]:
    """In as few tiles as there may be, alike but for one row."""
    parts = -(-pixels // amx.ROWS)
    return tuple(pixels // parts + (part < pixels % parts) for part in range(parts))


def _fits(rows: tuple[int, ...], blocks: int) -> bool:
    """Where there are several parts of pixels, weights stay for all of them."""
    return len(rows) * blocks + len(set(rows)) + (blocks if len(rows) > 1 else 1) <= amx.REGISTERS


@dataclass(frozen=True)
class Tiled:
    """configuration: the function's argument behind the weights."""

    function: Any
    note: str
    configuration: Array


def pointwise(made: Sum, isa: InstructionSet, macs: int, threads: int) -> Tiled | None:
    """None where tiles aren't worth it."""
    sch = s_tir.Schedule(made.function)
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    n, y, z, o = sch.get_loops(store)
    pixels, blocks = int(sch.get(z).extent), int(sch.get(o).extent) // made.vector
    shared = threads if pixels % threads == 0 and isa.microseconds(macs, dots=True) >= WORTH else 1
    size = block(pixels // shared, blocks, int(sch.get(sch.get_loops(total)[-2]).extent))
    if size is None:
        return None
    outer, zo, zi = sch.split(z, [shared, None, size.pixels])
    oo, om, oi = sch.split(o, [None, size.blocks, made.vector])
    inner = (zo, oo) if made.weight_bytes < L1 else (oo, zo)
    sch.reorder(outer, n, y, *inner, zi, om, oi)
    sch.vectorize(oi)
    sch.compute_at(total, inner[1], preserve_unit_loops=True)
    sch.set_scope(total, 0, "local")
    if shared > 1:
        sch.parallel(outer)
    *_, az, ablock, lane, kh, kw, _, _ = sch.get_loops(total)
    sch.reorder(kh, kw, az, ablock, lane)
    init = sch.decompose_reduction(total, kh)
    zeros, products = amx.register(size)
    sch.tensorize(sch.get_loops(init)[-3], zeros)
    sch.tensorize(az, products)
    note = f"{size.pixels}x{size.blocks * made.vector} tile{f', {threads} threads' if shared > 1 else ''}, amx"
    return Tiled(configured(sch.mod["main"]), note, size.configuration)


def configured(function: Any) -> Any:
    """With what the tiles are as an argument behind the weights: each thread sets it before its part of the outermost
    loop, and lets go of it behind."""
    tiles = tirx.decl_buffer((amx.BYTES,), "uint8", "tiles")
    root = function.body.block
    loop = root.body
    first = tirx.call_llvm_intrin("void", "llvm.x86.ldtilecfg", tirx.address_of(tiles[0]))
    last = tirx.call_llvm_intrin("void", "llvm.x86.tilerelease")
    body = tirx.SeqStmt([tirx.Evaluate(first), loop.body, tirx.Evaluate(last)])
    loop = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
    block = s_tir.SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, loop, root.init, root.alloc_buffers,
        root.match_buffers, root.annotations,
    )  # fmt: skip
    params = [*function.params[:2], tiles, *function.params[2:]]
    realized = s_tir.SBlockRealize(function.body.iter_values, function.body.predicate, block)
    return tirx.PrimFunc(params, realized, attrs=function.attrs)
