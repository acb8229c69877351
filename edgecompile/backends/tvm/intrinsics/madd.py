"""VPMADDWD: pairs of 16-bit products, added to each int32 lane (AVX2, AVX-512): for CPUs without VNNI.

Four bytes of a lane are split to two words twice, those at even and those at odd places; a word holds a byte's product
without loss, as VPMADDUBSW, which takes bytes, would not.
"""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T

from edgecompile.backends.tvm.intrinsics.described import described

_LANES = {"madd512": (16, "llvm.x86.avx512.pmaddw.d.512"), "madd256": (8, "llvm.x86.avx2.pmadd.wd")}


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation) over the lanes of a register."""
    lanes, instruction = _LANES[name]
    sums, words = f"int32x{lanes}", f"int16x{lanes * 2}"

    @T.prim_func(s_tir=True)
    def implementation(
        a: T.Buffer((4,), "uint8", offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            four = T.reinterpret(a.vload([0], "uint8x4"), dtype="uint32")
            even = T.reinterpret(T.broadcast(four & T.uint32(0x00FF00FF), lanes), dtype=words)
            odd = T.reinterpret(T.broadcast((four >> T.uint32(8)) & T.uint32(0x00FF00FF), lanes), dtype=words)
            weights = T.reinterpret(b.vload([0, 0], dtype=f"int8x{lanes * 4}"), dtype=words)
            eight = T.broadcast(T.int16(8), lanes * 2)
            c[T.ramp(T.int32(0), 1, lanes)] = (
                c.vload([0], dtype=sums)
                + T.call_llvm_pure_intrin(
                    T.llvm_lookup_intrinsic_id(instruction), (weights << eight) >> eight, even, dtype=sums
                )
                + T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(instruction), weights >> eight, odd, dtype=sums)
            )

    return described(lanes, "uint8"), implementation
