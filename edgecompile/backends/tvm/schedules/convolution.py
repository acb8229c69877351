"""Register tiles for convolutions: columns of the output times blocks of channels, held in vector registers."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

from edgecompile.backends.tvm.intrinsics import Intrinsic
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.operators.convolution import Sum

L1 = 40_000  # bytes of weights that stay in the first cache, so that channels may be the inner loop
_SPARE = 4  # registers for what is multiplied
_UNEVEN = 1.3  # times the products for each load, from which on columns may leave a rest
WORTH = 6.0  # microseconds of work that are worth waiting for another thread
_PANEL = 8192  # bytes of a block's weights at most for tiles of eight sums: of twice as many they were slower
_PRODUCTS = 400  # of a depthwise window and its columns, in vectors, that are written out: 7x7 and 7 columns


def tile(width: int, blocks: int, accumulators: int, most_blocks: int, *, uneven: bool = False) -> tuple[int, int]:
    """(columns, blocks) with the most products for each load, that divide the output and fit the registers.

    uneven: columns may leave a rest, where they give much more than those that divide the output.
    """

    def products(columns: int, wide: int) -> float:
        whole = -(-width // columns) * columns  # a rest takes about as long as a tile
        return columns * wide / (columns + wide) * width / whole

    fitting = [
        (columns, wide)
        for columns in range(1, min(width, accumulators) + 1)
        for wide in range(1, min(blocks, most_blocks) + 1)
        if blocks % wide == 0 and columns * wide <= accumulators
    ]
    even = max((size for size in fitting if width % size[0] == 0), key=lambda size: (products(*size), size))
    # With registers for the weights and a factor: what is spilled in the loop costs more than a tile gives.
    free = [(columns, wide) for columns, wide in fitting if (columns + 1) * wide < accumulators + _SPARE]
    best = max(free, key=lambda size: (products(*size), size))
    return best if uneven and products(*best) > _UNEVEN * products(*even) else even


def sums(width: int, blocks: int, isa: InstructionSet, *, dots: bool, uneven: bool = False) -> tuple[int, int]:
    """The `tile` of a convolution."""
    registers = isa.sums(blocks) if dots else isa.registers - _SPARE
    return tile(width, blocks, registers, 8 if width == 1 else 4, uneven=uneven)


def _few(made: Sum, width: int, blocks: int) -> tuple[int, int] | None:
    """A tile of the eight sums or so that keep a CPU busy which takes registers in halves: what sums begin and end with
    overlaps with the next ones then. None where their weights are so many that this counts for less than loading them,
    or no such number of columns divides the output.
    """
    if made.weight_bytes >= L1 and made.weight_bytes // blocks > _PANEL:
        return None
    return next(((columns, 1) for columns in (8, 7, 6) if width % columns == 0), None)


def convolution(
    made: Sum, isa: InstructionSet, macs: int, threads: int, intrinsic: Intrinsic | None
) -> tuple[Any, str]:
    """(the scheduled function, what was done)"""
    sch = s_tir.Schedule(made.function)
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    n, y, z, o = sch.get_loops(store)
    height, width = int(sch.get(y).extent), int(sch.get(z).extent)
    blocks = int(sch.get(o).extent) // made.vector
    # TVM puts no intrinsic into loops that end at a condition.
    columns, wide = sums(width, blocks, isa, dots=made.grouped and intrinsic is not None, uneven=intrinsic is None)
    if isa.halves and not made.grouped and made.vector == isa.lanes:
        columns, wide = _few(made, width, blocks) or (columns, wide)
    zo, zi = sch.split(z, [None, columns])
    if width % columns:  # the rest gets code of its own
        sch.annotate(zo, "pragma_loop_partition_hint", 1)
    oo, om, oi = sch.split(o, [None, wide, made.vector])
    small = made.weight_bytes < L1
    if small:
        sch.reorder(n, y, zo, oo, zi, om, oi)
    else:
        sch.reorder(n, oo, y, zo, zi, om, oi)
    sch.vectorize(oi)
    sch.unroll(om)
    sch.unroll(zi)
    sch.compute_at(total, oo if small else zo, preserve_unit_loops=True)
    if made.padded and made.scratch is None:
        sch.compute_inline(sch.get_sblock("pad"))
    work = isa.microseconds(macs, dots=made.grouped)
    tiles = 1 if width % columns else width // columns
    shared = share(sch, work, threads, {"y": y, "zo": zo, "oo": oo, "n": n}, small, height, tiles)
    if made.scratch is not None and len(made.scratch[0]) == 4:  # LLVM's own vectors copy whole lines faster
        _vectorize(sch, sch.get_loops(sch.get_sblock("pad"))[-1], isa.lanes * 4)
    loops = sch.get_loops(total)
    depth = 4 if made.grouped else 3
    inner, reductions = loops[-3 - depth : -depth], loops[-depth:]
    if made.grouped:
        kh, kw, c, group = reductions
        sch.reorder(kh, kw, c, *inner, group)
    else:
        kh, kw, c = reductions
        sch.reorder(kh, kw, c, *inner)
    place = inner[2]
    if intrinsic is not None and intrinsic.turns > 1:
        # Registers of weights, which turns of the columns share, are fewer if blocks are the outer loop.
        _, place = sch.split(c, [None, intrinsic.turns])
        sch.reorder(inner[1], inner[0], place, inner[2])
    else:
        turns = next((n for n in (isa.unrolled, isa.unrolled // 2) if n > 1 and int(sch.get(c).extent) % n == 0), 1)
        if turns > 1:
            sch.unroll(sch.split(c, [None, turns])[1])
    sch.unroll(inner[0])
    sch.unroll(inner[1])
    if intrinsic is None:
        sch.vectorize(inner[2])
    init = sch.decompose_reduction(total, kh)
    first = sch.get_loops(init)
    sch.vectorize(first[-1])
    sch.unroll(first[-2])
    sch.unroll(first[-3])
    note = f"{columns}x{wide * made.vector} tile{shared}"
    if intrinsic is not None:
        sch.tensorize(place, intrinsic.name)
        note += f", {intrinsic.name.rpartition('.')[2]}"
    return sch.mod["main"], note


def depthwise(made: Sum, isa: InstructionSet, macs: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done)"""
    sch = s_tir.Schedule(made.function)
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    n, y, z, o = sch.get_loops(store)
    width = int(sch.get(z).extent)
    columns = next((size for size in (4, 5, 6, 7, 3, 2) if width % size == 0), 1)
    if made.vector == 1 and made.function.params[-1].dtype == "int16":
        columns = 1  # of several, LLVM 22 makes code for AVX-512 that computes others (5, 9 or 13 channels)
    zo, zi = sch.split(z, [None, columns])
    oo, oi = sch.split(o, [None, made.vector])
    sch.reorder(n, y, zo, oo, zi, oi)
    sch.vectorize(oi)
    sch.unroll(zi)
    sch.compute_at(total, oo, preserve_unit_loops=True)
    *_, kh, kw = loops = sch.get_loops(total)
    az, ablock, lane = loops[-5], loops[-4], loops[-3]
    sch.reorder(kh, kw, az, lane)
    products = 1
    for loop in (az, kw, kh):
        products *= int(sch.get(loop).extent)
        if products <= _PRODUCTS:
            sch.unroll(loop)
    sch.compute_inline(sch.get_sblock("pad"))
    shared = ""
    if depthwise_threads(isa, macs, threads) > 1:
        sch.parallel(sch.fuse(n, y))
        shared = f", rows by {threads} threads"
    sch.vectorize(lane)
    init = sch.decompose_reduction(total, kh)
    first = sch.get_loops(init)
    sch.vectorize(first[-1])
    sch.unroll(first[-3])
    del ablock
    return sch.mod["main"], f"{columns}x{made.vector} tile{shared}"


def depthwise_threads(isa: InstructionSet, macs: int, threads: int) -> int:
    """How many of `threads` a depthwise convolution is worth; half of what it does is loading."""
    return threads if isa.microseconds(2 * macs, dots=False) >= WORTH else 1


def share(
    sch: Any, work: float, threads: int, loops: dict[str, Any], small: bool, height: int, columns: int
) -> str:  # fmt: skip
    """Hands the outermost loop that divides evenly to threads, where there is work enough; what was done. work: in
    microseconds."""
    if threads == 1 or work < WORTH:
        return ""
    n, y, zo, oo = (loops[name] for name in ("n", "y", "zo", "oo"))
    rows = height > 1
    if (height if rows else columns) % threads == 0:
        outer, _ = sch.split(y if rows else zo, [threads, None])
        sch.reorder(outer, n)
        sch.parallel(outer)
        return f", {threads} threads"
    if not small and int(sch.get(oo).extent) >= threads:
        sch.parallel(oo)
        return f", {threads} threads over channels"
    if height >= threads:
        sch.parallel(y)
        return f", rows by {threads} threads"
    return ""


def _vectorize(sch: Any, loop: Any, most: int) -> None:
    extent = int(sch.get(loop).extent)
    width = next((size for size in (64, 32, 16, 8, 4) if size <= most and extent % size == 0), None)
    if width is not None:
        sch.vectorize(sch.split(loop, [None, width])[1])
