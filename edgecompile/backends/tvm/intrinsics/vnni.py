"""VPDPBUSD: four products of an unsigned and a signed byte, added to each int32 lane (AVX512-VNNI, AVX-VNNI).

The one that TVM ships hands LLVM lanes of int32, which LLVM 22 no longer takes for this intrinsic.
"""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T

from edgecompile.backends.tvm.intrinsics.described import described

_GROUP = 4
_LANES = {"vnni512": 16, "vnni256": 8}


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation) over the lanes of a register."""
    lanes = _LANES[name]
    instruction = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
    words, bytes_ = f"int32x{lanes}", f"int8x{lanes * _GROUP}"

    @T.prim_func(s_tir=True)
    def implementation(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            four = T.reinterpret(a.vload([0], "uint8x4"), dtype="int32")
            c[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(instruction),
                c.vload([0], dtype=words),
                T.reinterpret(T.broadcast(four, lanes), dtype=bytes_),
                b.vload([0, 0], dtype=bytes_),
                dtype=words,
            )

    return described(lanes, "uint8"), implementation
