"""Products on ARM: SDOT of signed bytes where the core has it, else SMULL and SADALP; FMLA of floats.

SDOT and FMLA can take their second factor from a lane of a register, so that one load serves several products: forms
for 16 and 8 channels (SDOT) and 4 (FMLA).

Without SDOT, two products are added in 16 bits before they are widened: a sum fits as long as no weight is -128, which
quantizers leave out (TFLite's specification of 8-bit quantization); the planner asks for no intrinsic else.
"""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T

from edgecompile.backends.tvm.intrinsics.described import by_lane, by_lane_floats, described

NARROW = "smull"
_SDOT, _SMULL = "llvm.aarch64.neon.sdot", "llvm.aarch64.neon.smull"
_ADDP, _SADDLP = "llvm.aarch64.neon.addp", "llvm.aarch64.neon.saddlp"


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation) over the four lanes of a register."""
    known = {
        "sdot": (described(4, "int8"), _sdot),
        "sdot-2": (by_lane(2, 4, "int8", "int32"), _sdot_2),
        "sdot-4": (by_lane(4, 4, "int8", "int32"), _sdot_4),
        "fmla-4": (by_lane_floats(), _fmla_4),
        NARROW: (described(4, "int8"), _smull),
    }
    return known[name]


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
def _sdot_2(
    a: T.Buffer((8,), "int8", offset_factor=1),
    b: T.Buffer((2, 4, 4), "int8", offset_factor=1),
    c: T.Buffer((4,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:4], a[0:8], b[0:2, 0:4, 0:4])
        T.writes(c[0:4])
        groups = T.reinterpret(a.vload([0], "int8x8"), dtype="int32x2")
        first = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            c.vload([0], dtype="int32x4"),
            b.vload([0, 0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(T.Shuffle([groups], [0]), 4), dtype="int8x16"),
            dtype="int32x4",
        )
        c[T.ramp(T.int32(0), 1, 4)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            first,
            b.vload([1, 0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(T.Shuffle([groups], [1]), 4), dtype="int8x16"),
            dtype="int32x4",
        )


@T.prim_func(s_tir=True)
def _sdot_4(
    a: T.Buffer((16,), "int8", offset_factor=1),
    b: T.Buffer((4, 4, 4), "int8", offset_factor=1),
    c: T.Buffer((4,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:4], a[0:16], b[0:4, 0:4, 0:4])
        T.writes(c[0:4])
        groups = T.reinterpret(a.vload([0], "int8x16"), dtype="int32x4")
        first = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            c.vload([0], dtype="int32x4"),
            b.vload([0, 0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(T.Shuffle([groups], [0]), 4), dtype="int8x16"),
            dtype="int32x4",
        )
        second = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            first,
            b.vload([1, 0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(T.Shuffle([groups], [1]), 4), dtype="int8x16"),
            dtype="int32x4",
        )
        third = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            second,
            b.vload([2, 0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(T.Shuffle([groups], [2]), 4), dtype="int8x16"),
            dtype="int32x4",
        )
        c[T.ramp(T.int32(0), 1, 4)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(_SDOT),
            third,
            b.vload([3, 0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(T.Shuffle([groups], [3]), 4), dtype="int8x16"),
            dtype="int32x4",
        )


@T.prim_func(s_tir=True)
def _fmla_4(
    a: T.Buffer((4,), "float32", offset_factor=1),
    b: T.Buffer((4, 4, 1), "float32", offset_factor=1),
    c: T.Buffer((4,), "float32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:4], a[0:4], b[0:4, 0:4, 0:1])
        T.writes(c[0:4])
        four = a.vload([0], "float32x4")
        c[T.ramp(T.int32(0), 1, 4)] = (
            c.vload([0], dtype="float32x4")
            + T.broadcast(T.Shuffle([four], [0]), 4) * b.vload([0, 0, 0], dtype="float32x4")
            + T.broadcast(T.Shuffle([four], [1]), 4) * b.vload([1, 0, 0], dtype="float32x4")
            + T.broadcast(T.Shuffle([four], [2]), 4) * b.vload([2, 0, 0], dtype="float32x4")
            + T.broadcast(T.Shuffle([four], [3]), 4) * b.vload([3, 0, 0], dtype="float32x4")
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
