"""SMMLA (i8mm): two rows of eight bytes times two others, added to a block of 2x2 int32."""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T

_SMMLA = "llvm.aarch64.neon.smmla"


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation)"""
    return {"smmla": (_description, _implementation)}[name]


@T.prim_func(s_tir=True)
def _description(
    a: T.Buffer((2, 8), "int8", offset_factor=1),
    b: T.Buffer((2, 8), "int8", offset_factor=1),
    c: T.Buffer((2, 2), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:2, 0:2], a[0:2, 0:8], b[0:2, 0:8])
        T.writes(c[0:2, 0:2])
        for i, j, k in T.grid(2, 2, 8):
            with T.sblock("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                c[vi, vj] = c[vi, vj] + T.cast(a[vi, vk], "int32") * T.cast(b[vj, vk], "int32")


@T.prim_func(s_tir=True)
def _implementation(
    a: T.Buffer((2, 8), "int8", offset_factor=1),
    b: T.Buffer((2, 8), "int8", offset_factor=1),
    c: T.Buffer((2, 2), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:2, 0:2], a[0:2, 0:8], b[0:2, 0:8])
        T.writes(c[0:2, 0:2])
        c[0, T.ramp(T.int32(0), 1, 4)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SMMLA),
            c.vload([0, 0], dtype="int32x4"),
            a.vload([0, 0], dtype="int8x16"),
            b.vload([0, 0], dtype="int8x16"),
            dtype="int32x4",
        )
