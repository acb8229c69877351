"""Dot products of signed bytes on ARM: SDOT where the core has it, else SMULL and SADALP.

Without SDOT, two products are added in 16 bits before they are widened: a sum fits as long as no weight is -128, which
quantizers leave out (TFLite's specification of 8-bit quantization); the planner asks for no intrinsic else.
"""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T

from edgecompile.backends.tvm.intrinsics.described import described

NARROW = "smull"
_SDOT, _SMULL = "llvm.aarch64.neon.sdot", "llvm.aarch64.neon.smull"
_ADDP, _SADDLP = "llvm.aarch64.neon.addp", "llvm.aarch64.neon.saddlp"


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation) over the four lanes of a register."""
    return described(4, "int8"), {"sdot": _sdot, NARROW: _smull}[name]


@T.prim_func(s_tir=True)
def _sdot(
    a: T.Buffer((4,), "int8", offset_factor=1),
    b: T.Buffer((4, 4), "int8", offset_factor=1),
    c: T.Buffer((4,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:4], a[0:4], b[0:4, 0:4])
        T.writes(c[0:4])
        four = T.reinterpret(a.vload([0], "int8x4"), dtype="int32")
        c[T.ramp(T.int32(0), 1, 4)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            c.vload([0], dtype="int32x4"),
            T.reinterpret(T.broadcast(four, 4), dtype="int8x16"),
            b.vload([0, 0], dtype="int8x16"),
            dtype="int32x4",
        )


@T.prim_func(s_tir=True)
def _smull(
    a: T.Buffer((4,), "int8", offset_factor=1),
    b: T.Buffer((4, 4), "int8", offset_factor=1),
    c: T.Buffer((4,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:4], a[0:4], b[0:4, 0:4])
        T.writes(c[0:4])
        four = T.reinterpret(a.vload([0], "int8x4"), dtype="int32")
        twice = T.reinterpret(T.broadcast(four, 2), dtype="int8x8")
        low = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SMULL), twice, b.vload([0, 0], dtype="int8x8"), dtype="int16x8"
        )
        high = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SMULL), twice, b.vload([2, 0], dtype="int8x8"), dtype="int16x8"
        )
        pairs = T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(_ADDP), low, high, dtype="int16x8")
        c[T.ramp(T.int32(0), 1, 4)] = c.vload([0], dtype="int32x4") + T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SADDLP), pairs, dtype="int32x4"
        )
