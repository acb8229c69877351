"""Schedules of what only reads, computes a little and writes."""

from __future__ import annotations

import math
from typing import Any

from tvm import s_tir

CHUNK = 60_000  # elements that are worth a thread's start
_ROWS = 16_000  # the same, of rows that are summed up or exponentiated
# Elements of the last axis in a vector that are worth more than whole vectors of several axes, of which TVM computes
# each element's address by itself.
_CONTIGUOUS = 4


def pointwise(function: Any, lanes: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): the block `store`, in vectors."""
    sch = s_tir.Schedule(function)
    *before, last = sch.get_loops(sch.get_sblock("store"))
    if before and _divisor(int(sch.get(last).extent), lanes) < _CONTIGUOUS:
        before, last = [], sch.fuse(*before, last)
    vector = _divisor(int(sch.get(last).extent), lanes)
    outer, inner = sch.split(last, [None, vector])
    sch.vectorize(inner)
    outer = sch.fuse(*before, outer) if before else outer
    shared = ""
    if threads > 1 and int(sch.get(outer).extent) * vector >= CHUNK:
        sch.parallel(outer)
        shared = f", {threads} threads"
    return sch.mod["main"], f"vectors of {vector}{shared}"


def reduction(function: Any, lanes: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): blocks `sum` and `store` over channels, in vectors of them."""
    sch = s_tir.Schedule(function)
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    n, y, z, c = sch.get_loops(store)
    extent = int(sch.get(c).extent)
    vector = _divisor(extent, lanes)
    outer, inner = sch.split(c, [None, vector])
    sch.vectorize(inner)
    sch.compute_at(total, outer, preserve_unit_loops=True)
    *_, lane, kh, kw = sch.get_loops(total)
    sch.reorder(kh, kw, lane)
    sch.vectorize(lane)
    init = sch.decompose_reduction(total, kh)
    sch.vectorize(sch.get_loops(init)[-1])
    del n, y, z
    return sch.mod["main"], f"vectors of {vector}"


def matmul(function: Any, lanes: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): blocks `sum` and `store`, the last axis in vectors."""
    sch = s_tir.Schedule(function)
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    *outer, row, column = sch.get_loops(store)
    vector = _divisor(int(sch.get(column).extent), lanes)
    if vector == 1:  # a row at a time, of which LLVM makes vectors and what is left over
        sch.compute_at(total, row, preserve_unit_loops=True)
        *_, inner, k = sch.get_loops(total)
        sch.reorder(k, inner)
        sch.decompose_reduction(total, k)
        tile = "rows"
    else:
        rows, blocks = row_tile(int(sch.get(row).extent), int(sch.get(column).extent) // vector)
        row, one = sch.split(row, [None, rows])
        block, other, lane = sch.split(column, [None, blocks, vector])
        sch.reorder(row, block, one, other, lane)
        sch.vectorize(lane)
        sch.compute_at(total, block, preserve_unit_loops=True)
        *_, i, j, k = sch.get_loops(total)
        j, lane = sch.split(j, [None, vector])
        sch.reorder(k, i, j, lane)
        for loop in (i, j):
            sch.unroll(loop)
        sch.vectorize(lane)
        sch.vectorize(sch.get_loops(sch.decompose_reduction(total, k))[-1])
        tile = f"{rows}x{blocks * vector} tile"
    shared = ""
    if threads > 1:
        sch.parallel(sch.fuse(*outer, row))
        shared = f", {threads} threads"
    return sch.mod["main"], f"{tile}{shared}"


def row_tile(rows: int, blocks: int) -> tuple[int, int]:
    """(rows, blocks of columns) whose sums registers hold, 12 at most, with the most products for each load."""
    pairs = ((r, b) for r in range(1, min(rows, 12) + 1) for b in (1, 2, 4) if r * b <= 12)
    return max((p for p in pairs if rows % p[0] == 0 and blocks % p[1] == 0), key=lambda p: p[0] * p[1] / (p[0] + p[1]))


def over_others(function: Any, lanes: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): blocks `sum` and `store` of a reduction that keeps the last axis, in
    vectors of it."""
    sch = s_tir.Schedule(function)
    total, left = sch.get_sblock("sum"), sch.get_loops(sch.get_sblock("store"))
    elements, rank = _elements(sch, total), len(left)
    vector = _divisor(int(sch.get(left[-1]).extent), lanes)
    if vector == 1:
        return as_it_is(function)
    block, lane = sch.split(left[-1], [None, vector])
    sch.vectorize(lane)
    sch.compute_at(total, block, preserve_unit_loops=True)
    inner = sch.get_loops(total)[rank:]
    shared = _by_threads(sch, [*left[:-1], block], elements, threads)
    _in_lanes(sch, total, inner[rank - 1], inner[rank:])
    return sch.mod["main"], f"vectors of {vector}{shared}"


def over_last(function: Any, lanes: int, threads: int) -> tuple[Any, str]:
    """As `over_others` where the last axis goes: in vectors of sums, which are added up at the end."""
    sch = s_tir.Schedule(function)
    total, left = sch.get_sblock("sum"), sch.get_loops(sch.get_sblock("store"))
    elements, rank = _elements(sch, total), len(left)
    vector, part = _in_parts(sch, total, rank, lanes)
    if part is None:
        return as_it_is(function)
    for block in (total, part):
        sch.compute_at(block, left[-1], preserve_unit_loops=True)
    inner = sch.get_loops(part)[rank:]
    shared = _by_threads(sch, left, elements, threads)
    _in_lanes(sch, part, inner[0], inner[rank + 1 :])
    return sch.mod["main"], f"vectors of {vector}{shared}"


def softmax(function: Any, lanes: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): blocks `most`, `power`, `total` and `store`, row by row."""
    sch = s_tir.Schedule(function)
    most, power, total, store = (sch.get_sblock(name) for name in ("most", "power", "total", "store"))
    row, _ = sch.get_loops(store)
    elements = _elements(sch, store)
    (vector, first), (_, second) = _in_parts(sch, most, 1, lanes), _in_parts(sch, total, 1, lanes)
    if first is None or second is None:
        return as_it_is(function)
    for block in (total, second, power, most, first):
        sch.compute_at(block, row, preserve_unit_loops=True)
    shared = _by_threads(sch, [row], elements, threads)
    for block in (first, second):
        _, lane, _, turn = sch.get_loops(block)
        _in_lanes(sch, block, lane, [turn])
    for block in (power, store):
        sch.vectorize(sch.split(sch.get_loops(block)[-1], [None, vector])[1])
    return sch.mod["main"], f"vectors of {vector}{shared}"


def _in_parts(sch: Any, block: Any, rank: int, lanes: int) -> tuple[int, Any]:
    """(lanes of a vector, the block of partial results, one a lane) of a reduction to `rank` axes along memory;
    (1, None) where no vector divides it."""
    last = sch.get_loops(block)[-1]
    vector = _divisor(int(sch.get(last).extent), lanes)
    return (1, None) if vector == 1 else (vector, sch.rfactor(sch.split(last, [None, vector])[1], rank))


def _in_lanes(sch: Any, block: Any, lane: Any, gone: list[Any]) -> None:
    """gone: the loops that the reduction goes over, outside of its lanes."""
    sch.reorder(*gone, lane)
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(block, gone[0]))[-1])


def _elements(sch: Any, block: Any) -> int:
    return math.prod(int(sch.get(loop).extent) for loop in sch.get_loops(block))


def _by_threads(sch: Any, loops: list[Any], elements: int, threads: int) -> str:
    """Hands rows to threads where there is work enough, which TVM takes before a reduction's start is set apart; what
    was done."""
    if threads == 1 or elements < _ROWS:
        return ""
    sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])
    return f", {threads} threads"


def _divisor(extent: int, lanes: int) -> int:
    """The largest power of two, `lanes` at most, that divides it; lanes is one, too."""
    return math.gcd(extent, lanes)


def as_it_is(function: Any, *_: int) -> tuple[Any, str]:
    return s_tir.Schedule(function).mod["main"], "no schedule"
