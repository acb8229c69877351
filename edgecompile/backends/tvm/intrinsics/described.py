"""What products of lanes compute, so that TVM finds their places."""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T


def described(lanes: int, dtype: str) -> Any:
    """What a dot product of bytes computes: four of each lane are multiplied by the same four, and added. dtype: of
    those."""

    @T.prim_func(s_tir=True)
    def description(
        a: T.Buffer((4,), dtype, offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")

    return description


def by_lane(groups: int, size: int, dtype: str, total: str) -> Any:
    """The same for several groups of `size` numbers one after the other, four lanes each: a register of `a` serves
    them all. total: type of the sums."""

    @T.prim_func(s_tir=True)
    def description(
        a: T.Buffer((groups * size,), dtype, offset_factor=1),
        b: T.Buffer((groups, 4, size), dtype, offset_factor=1),
        c: T.Buffer((4,), total, offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:4], a[0 : groups * size], b[0:groups, 0:4, 0:size])
            T.writes(c[0:4])
            for g in T.serial(0, groups):
                for i in T.serial(0, 4):
                    for k in T.serial(0, size):
                        with T.sblock("update"):
                            vi, vg, vk = T.axis.remap("SRR", [i, g, k])
                            c[vi] = c[vi] + T.cast(a[vg * size + vk], total) * T.cast(b[vg, vi, vk], total)

    return description


def by_lane_floats() -> Any:
    """Four float32 of `a`, one after the other, times four lanes each."""

    @T.prim_func(s_tir=True)
    def description(
        a: T.Buffer((4,), "float32", offset_factor=1),
        b: T.Buffer((4, 4, 1), "float32", offset_factor=1),
        c: T.Buffer((4,), "float32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:4], a[0:4], b[0:4, 0:4, 0:1])
            T.writes(c[0:4])
            for g in T.serial(0, 4):
                for i in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vg = T.axis.remap("SR", [i, g])
                        c[vi] = c[vi] + a[vg] * b[vg, vi, 0]

    return description
