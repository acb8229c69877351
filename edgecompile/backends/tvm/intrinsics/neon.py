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
_GROUPS = {"sdot-2": 2, "sdot-4": 4}
_ADDP, _SADDLP = "llvm.aarch64.neon.addp", "llvm.aarch64.neon.saddlp"


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation) over the four lanes of a register."""
    if name == "fmla-4":
        return by_lane_floats(), _fmla_4
    if name in _GROUPS:
        return by_lane(_GROUPS[name], 4, "int8", "int32"), _sdots(_GROUPS[name])
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
            b.vload([0, 0], dtype="int8x16"),
            T.reinterpret(T.broadcast(four, 4), dtype="int8x16"),
            dtype="int32x4",
        )


def _sdots(groups: int) -> Any:
    def chained(a: Any, b: Any, c: Any) -> Any:
        total = c.vload([0], dtype="int32x4")
        fours = T.reinterpret(a.vload([0], f"int8x{4 * groups}"), dtype=f"int32x{groups}")
        for group in range(groups):
            total = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(_SDOT),
                total,
                b.vload([group, 0, 0], dtype="int8x16"),
                T.reinterpret(T.broadcast(T.Shuffle([fours], [group]), 4), dtype="int8x16"),
                dtype="int32x4",
            )
        return total

    @T.prim_func(s_tir=True)
    def implementation(
        a: T.Buffer((4 * groups,), "int8", offset_factor=1),
        b: T.Buffer((groups, 4, 4), "int8", offset_factor=1),
        c: T.Buffer((4,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:4], a[0 : 4 * groups], b[0:groups, 0:4, 0:4])
            T.writes(c[0:4])
            c[T.ramp(T.int32(0), 1, 4)] = chained(a, b, c)

    return implementation


def _products(a: Any, b: Any, c: Any) -> Any:
    four, total = a.vload([0], "float32x4"), c.vload([0], dtype="float32x4")
    for lane in range(4):
        total = total + T.broadcast(T.Shuffle([four], [lane]), 4) * b.vload([lane, 0, 0], dtype="float32x4")
    return total


@T.prim_func(s_tir=True)
def _fmla_4(
    a: T.Buffer((4,), "float32", offset_factor=1),
    b: T.Buffer((4, 4, 1), "float32", offset_factor=1),
    c: T.Buffer((4,), "float32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:4], a[0:4], b[0:4, 0:4, 0:1])
        T.writes(c[0:4])
        c[T.ramp(T.int32(0), 1, 4)] = _products(a, b, c)


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
