"""Bytes of four columns brought together, channel by channel, and the products of such registers with weights of each
lane's own (AVX512-VNNI, AVX-VNNI)."""

# No `annotations` from __future__: TVM's script parser reads those of its functions as they are.

from typing import Any

from tvm.script import tirx as T

GROUP = 4
LANES = {"interleave512": 16, "interleave256": 8, "vnni512-each": 16, "vnni256-each": 8}


def of(name: str) -> tuple[Any, Any]:
    """(description, implementation) over the lanes of a register."""
    return (_interleaved if name.startswith("interleave") else _products)(LANES[name])


def _interleaved(lanes: int) -> tuple[Any, Any]:
    bytes_ = f"uint8x{lanes}"
    order = [column * lanes + lane for lane in range(lanes) for column in range(GROUP)]

    def together(a: Any) -> Any:
        return T.Shuffle([a.vload([column, 0], dtype=bytes_) for column in range(GROUP)], order)

    @T.prim_func(s_tir=True)
    def description(a_: T.handle, c_: T.handle) -> None:
        stride = T.int32()
        a = T.match_buffer(a_, (4, lanes), "uint8", strides=[stride, 1], offset_factor=1, scope="local")
        c = T.match_buffer(c_, (lanes, 4), "uint8", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(a[0:4, 0:lanes])
            T.writes(c[0:lanes, 0:4])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SS", [i, k])
                        c[vi, vk] = a[vk, vi]

    @T.prim_func(s_tir=True)
    def implementation(a_: T.handle, c_: T.handle) -> None:
        stride = T.int32()
        a = T.match_buffer(a_, (4, lanes), "uint8", strides=[stride, 1], offset_factor=1, scope="local")
        c = T.match_buffer(c_, (lanes, 4), "uint8", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(a[0:4, 0:lanes])
            T.writes(c[0:lanes, 0:4])
            c.vstore([0, 0], together(a))

    return description, implementation


def _products(lanes: int) -> tuple[Any, Any]:
    instruction = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
    words, bytes_ = f"int32x{lanes}", f"int8x{lanes * GROUP}"

    @T.prim_func(s_tir=True)
    def description(
        a: T.Buffer((lanes, 4), "uint8", offset_factor=1, scope="local"),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:lanes, 0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + T.cast(a[vi, vk], "int32") * T.cast(b[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def implementation(
        a: T.Buffer((lanes, 4), "uint8", offset_factor=1, scope="local"),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:lanes, 0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(instruction),
                c.vload([0], dtype=words),
                T.reinterpret(a.vload([0, 0], dtype=f"uint8x{lanes * GROUP}"), dtype=bytes_),
                b.vload([0, 0], dtype=bytes_),
                dtype=words,
            )

    return description, implementation
