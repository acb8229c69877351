"""AMX: products of tiles, up to 16 rows of 64 bytes each, by TDPBUSD (unsigned times signed bytes, added to int32).

The description is of a whole block of a convolution of single pixels: some pixels times some blocks of 16 outputs, over
all input channels. Its sums stay in tile registers until they are stored. What the tiles' rows and bytes are has to be
set before (`Block.configuration`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from edgecompile.task import Array

LANES, GROUP = 16, 4  # outputs of a tile; bytes of one dot product
REGISTERS, ROWS, BYTES = 8, 16, 64
_PALETTE = 1
_AHEAD = 2048  # bytes of weights that are asked for before they are loaded


@dataclass(frozen=True)
class Block:
    """rows: pixels of each tile, at most two different numbers, the larger first. blocks: of 16 outputs. groups: of
    four channels that are multiplied at once, `steps` times."""

    rows: tuple[int, ...]
    blocks: int
    groups: int
    steps: int

    @property
    def pixels(self) -> int:
        return sum(self.rows)

    @property
    def sums(self) -> int:
        """Tiles of sums; the registers behind them hold factors."""
        return len(self.rows) * self.blocks

    def weights(self, block: int) -> int:
        """Register of the weights for a block; one after the other where there isn't one for each."""
        return self.sums + block % self._of_weights

    def inputs(self, part: int) -> int:
        """Register of a part of the pixels."""
        first = self.sums + self._of_weights
        if len(self.rows) <= REGISTERS - first:
            return first + part
        return first + sorted(set(self.rows), reverse=True).index(self.rows[part])

    @property
    def _of_weights(self) -> int:
        return min(self.blocks, REGISTERS - self.sums - len(set(self.rows)))

    @property
    def configuration(self) -> Array:
        """What LDTILECFG reads: uint8 [64]."""
        row_bytes, rows = np.zeros(16, np.uint16), np.zeros(16, np.uint8)
        for block in range(self.blocks):
            row_bytes[self.weights(block)], rows[self.weights(block)] = BYTES, self.groups
            for part, pixels in enumerate(self.rows):
                at = part * self.blocks + block
                row_bytes[at], rows[at] = BYTES, pixels
                row_bytes[self.inputs(part)], rows[self.inputs(part)] = self.groups * GROUP, pixels
        head = np.array([_PALETTE, *[0] * 15], np.uint8)
        return np.concatenate([head, row_bytes.view(np.uint8), rows])


@cache
def register(block: Block) -> tuple[str, str]:
    """The names under which TVM knows how a block begins, and what it adds."""
    from tvm.s_tir import TensorIntrin

    parts = "-".join(map(str, block.rows))
    name = f"edgecompile.amx-{parts}x{block.blocks * LANES}-{block.groups * GROUP}x{block.steps}"
    zeros, products = f"{name}.zeros", f"{name}.products"
    TensorIntrin.register(zeros, _zeros(block, described=True), _zeros(block, described=False), override=True)
    TensorIntrin.register(products, _described(block), _products(block), override=True)
    return zeros, products


def _zeros(block: Block, *, described: bool) -> Any:
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        c, _ = _sums(T, block)
        with T.sblock("root"):
            T.reads([])
            T.writes([c[0 : block.pixels, 0 : block.blocks, 0:LANES]])
            if described:
                with _loops(T, "init", (block.pixels, block.blocks, LANES), "SSS") as (m, n, lane):
                    T.buffer_store(c, 0, [m, n, lane])
            else:
                for tile in range(block.sums):
                    _call(T, "tilezero", T.uint8(tile))
    return builder.get()


def _described(block: Block) -> Any:
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    groups = block.groups * block.steps
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        a, b, c, _ = _operands(T, block)
        with T.sblock("root"):
            _regions(T, block, a, b, c)
            sizes = (block.pixels, block.blocks, LANES, groups, GROUP)
            with _loops(T, "update", sizes, "SSSRR") as (m, n, lane, g, k):
                product = T.Cast("int32", a[m, g * GROUP + k]) * T.Cast("int32", b[n, 0, 0, g, lane, k])
                T.buffer_store(c, c[m, n, lane] + product, [m, n, lane])
    return builder.get()


def _products(block: Block) -> Any:
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    firsts = list(accumulate(block.rows, initial=0))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        a, b, c, (row, pixel) = _operands(T, block)
        with T.sblock("root"):
            _regions(T, block, a, b, c)
            with T.serial(0, block.steps) as step:
                for part in range(len(block.rows)):
                    channel = step * block.groups * GROUP
                    _load(T, block.inputs(part), T.address_of(a[firsts[part], channel]), row)
                    for n in range(block.blocks):
                        register = block.weights(n)
                        if part == 0:
                            factors = T.address_of(b[n, 0, 0, step * block.groups, 0, 0])
                            _prefetch(T, factors, block.groups)
                            _load(T, register, factors, T.int32(BYTES))
                        at = part * block.blocks + n
                        _call(T, "tdpbusd", *map(T.uint8, (at, block.inputs(part), register)))
            for part in range(len(block.rows)):
                for n in range(block.blocks):
                    where = T.address_of(c[firsts[part], n, 0])
                    _call(T, "tilestored64", T.uint8(part * block.blocks + n), where, T.Cast("int64", pixel * 4))
    return builder.get()


@contextmanager
def _loops(T: Any, name: str, sizes: tuple[int, ...], kinds: str) -> Iterator[list[Any]]:
    """The axes of a block in loops of such sizes, two of which take turns; 0 for a loop of one turn, whose axis TVM
    leaves out."""
    turned = [at for at, size in enumerate(sizes) if size > 1]
    with T.grid(*sizes) as loops, T.sblock(name):
        axes = T.axis.remap("".join(kinds[at] for at in turned), [loops[at] for at in turned])
        yield [axes[turned.index(at)] if at in turned else 0 for at in range(len(sizes))]


def _sums(T: Any, block: Block) -> tuple[Any, Any]:
    """(the buffer of the sums, elements from one pixel to the next)"""
    pixel, group = T.int32(), T.int32()
    shape = (block.pixels, block.blocks, LANES)
    made = T.match_buffer(
        T.arg("c", T.handle()), shape, "int32", strides=[pixel, group, 1], offset_factor=1, scope="local"
    )
    return made, pixel


def _operands(T: Any, block: Block) -> tuple[Any, Any, Any, tuple[Any, Any]]:
    """(pixels, weights, sums, (elements from one pixel to the next, the same of sums))"""
    groups = block.groups * block.steps
    row = T.int32()
    shape = (block.pixels, groups * GROUP)
    a = T.match_buffer(T.arg("a", T.handle()), shape, "uint8", strides=[row, 1], offset_factor=1)
    packed = (block.blocks, 1, 1, groups, LANES, GROUP)
    b = T.match_buffer(T.arg("b", T.handle()), packed, "int8", offset_factor=1)
    c, pixel = _sums(T, block)
    return a, b, c, (row, pixel)


def _regions(T: Any, block: Block, a: Any, b: Any, c: Any) -> None:
    groups = block.groups * block.steps
    sums = c[0 : block.pixels, 0 : block.blocks, 0:LANES]
    factors = b[0 : block.blocks, 0:1, 0:1, 0:groups, 0:LANES, 0:GROUP]
    T.reads([sums, a[0 : block.pixels, 0 : groups * GROUP], factors])
    T.writes([sums])


def _call(T: Any, name: str, *arguments: Any) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _prefetch(T: Any, where: Any, rows: int) -> None:
    """Loads of tiles wait for each line in turn: of weights from beyond the first cache, for as long as their products
    take and longer. Past the last ones nothing is read, and no address is wrong."""
    read, keep, data = T.int32(0), T.int32(3), T.int32(1)
    for row in range(rows):
        line = T.handle_add_byte_offset(where, _AHEAD + row * BYTES)
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", line, read, keep, data))


def _load(T: Any, register: int, where: Any, stride: Any) -> None:
    _call(T, "tileloadd64", T.uint8(register), where, T.Cast("int64", stride))
