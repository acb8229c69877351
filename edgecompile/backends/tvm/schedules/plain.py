"""Schedules of what only reads, computes a little and writes."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

_CHUNK = 60_000  # elements that are worth a thread's start


def pointwise(function: Any, lanes: int, threads: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): the block `store`, in vectors."""
    sch = s_tir.Schedule(function)
    loops = sch.get_loops(sch.get_sblock("store"))
    loop = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    extent = int(sch.get(loop).extent)
    vector = next((size for size in (lanes, lanes // 2, 4, 2) if size > 1 and extent % size == 0), 1)
    outer, inner = sch.split(loop, [None, vector])
    sch.vectorize(inner)
    shared = ""
    if threads > 1 and extent >= _CHUNK:
        sch.parallel(outer)
        shared = f", {threads} threads"
    return sch.mod["main"], f"vectors of {vector}{shared}"


def reduction(function: Any, lanes: int) -> tuple[Any, str]:
    """(the scheduled function, what was done): blocks `sum` and `store` over channels, in vectors of them."""
    sch = s_tir.Schedule(function)
    total, store = sch.get_sblock("sum"), sch.get_sblock("store")
    n, y, z, c = sch.get_loops(store)
    extent = int(sch.get(c).extent)
    vector = next((size for size in (lanes, lanes // 2, 4, 2) if size > 1 and extent % size == 0), 1)
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


def as_it_is(function: Any) -> tuple[Any, str]:
    return s_tir.Schedule(function).mod["main"], "no schedule"
