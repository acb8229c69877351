"""Which function computes a convolution: by what the CPU has, the window and the types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.backends.tvm.epilogues import Epilogue
from edgecompile.backends.tvm.intrinsics import takes, widest
from edgecompile.backends.tvm.isa import InstructionSet
from edgecompile.backends.tvm.operators import convolution as operators
from edgecompile.backends.tvm.operators import interleaved, smmla
from edgecompile.backends.tvm.operators.window import Window
from edgecompile.backends.tvm.schedules import convolution as schedules
from edgecompile.backends.tvm.schedules import interleaved as bands
from edgecompile.backends.tvm.schedules import smmla as blocks
from edgecompile.backends.tvm.schedules import tiles
from edgecompile.task import Array

Scratch = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class Kernel:
    """A function of the input, `factors`, what the epilogue reads, memory of shape and type `scratch`, and the output.

    note: schedule, tile and instruction.
    """

    function: Any
    note: str
    factors: tuple[Array, ...]
    scratch: Scratch | None


@dataclass(frozen=True)
class Work:
    """What is computed where. weights: of a convolution [out, height, width, in / groups], of a depthwise one [height,
    width, channels] without their zero point. stored: channels of the output."""

    of: operators.Input
    window: Window
    weights: Array
    stored: int
    macs: int
    isa: InstructionSet
    threads: int


def convolution(work: Work, vector: int, group: int, epilogue: Epilogue) -> Kernel:
    """vector: channels that are computed at once, of which there are a multiple. group: see operators.convolution."""
    isa = work.isa
    if not dotted(work.of.dtype, group):
        return _products(work, vector, group, epilogue)
    if isa.matrix is not None and smmla.fits(work.of, work.window):
        return _blocks(work, vector, epilogue)
    return _dots(work, vector, epilogue)


def depthwise(work: Work, multiplier: int, epilogue: Epilogue) -> Kernel:
    """multiplier: how many filters each channel has."""
    isa, real = work.isa, work.weights
    bytes_ = work.of.dtype in ("int8", "uint8")
    if bytes_ and multiplier == 1 and isa.each and work.stored % isa.lanes == 0 and interleaved.serves(work.window):
        limits = np.iinfo(np.int8)
        if limits.min <= real.min() and real.max() <= limits.max:
            return _fours(work, epilogue)
    words = isa.words and bytes_
    most = isa.lanes * (2 if words else 1)
    vector = next(width for width in (16, 8, 4, 2, 1) if width <= most and work.stored % width == 0)
    total = "int32" if words else sums(work.of.dtype, real.transpose(2, 0, 1), floats=True)
    factors = "int16" if words else total
    packed = _widened(work, factors).reshape(*real.shape[:2], work.stored // vector, vector).transpose(2, 0, 1, 3)
    made = operators.depthwise(work.of, multiplier, work.stored, work.window, vector, epilogue, (factors, total))
    function, note = schedules.depthwise(made, isa, work.macs, work.threads)
    return Kernel(function, note, (np.ascontiguousarray(packed),), None)


def dotted(dtype: str, group: int) -> bool:
    """Whether products are of bytes, and every output sees all channels."""
    return dtype in ("int8", "uint8") and not group


def sums(dtype: str, weights: Array, *, floats: bool = False) -> str:
    """The narrowest type that holds all sums of products of `dtype` with weights [out, ...]. floats: whether float32
    may, which is exact below 2^24."""
    if dtype == "float32":
        return "float32"
    largest = 1 << 15 if dtype == "int16" else 255
    total = largest * int(np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(axis=1).max())
    if dtype == "int16":
        return "int32" if total < 1 << 31 else "int64"
    return "float32" if floats and total < 1 << 24 else "int32"


def _widened(work: Work, dtype: str) -> Array:
    """A depthwise convolution's weights, with zeros for channels that only fill registers."""
    made = np.zeros((*work.weights.shape[:2], work.stored), dtype)
    made[..., : work.weights.shape[2]] = work.weights
    return made


def _fours(work: Work, epilogue: Epilogue) -> Kernel:
    """By dot products of four columns."""
    isa, window = work.isa, work.window
    threads = schedules.depthwise_threads(isa, work.macs, work.threads)
    band = bands.band(window, isa.lanes, work.stored // isa.lanes, threads)
    made = interleaved.depthwise(work.of, window, band.rows, isa.lanes, epilogue)
    function, note = bands.depthwise(made, band, isa, threads)
    return Kernel(function, note, (interleaved.pack(_widened(work, "int8"), window, isa.lanes),), None)


def _beside(work: Work, vector: int) -> int:
    """Of one pixel's weights, which are read once, memory is what counts: those that are multiplied at once are one
    piece of it. ARM's intrinsics take several turns of channels as one; bytes are too few for a gain."""
    if work.of.dtype != "float32" or work.of.batch != 1 or work.window.output != (1, 1) or work.isa.products:
        return 1
    return schedules.sums(1, work.stored // vector, work.isa, dots=False)[1]


def _products(work: Work, vector: int, group: int, epilogue: Epilogue) -> Kernel:
    """Of floats, of 16-bit numbers, and where outputs see some of the channels alone."""
    of, isa, floats = work.of, work.isa, work.of.dtype == "float32"
    intrinsic = None
    if floats and not group and vector == isa.lanes:
        intrinsic = widest(isa.products, of.channels)
    total, beside = sums(of.dtype, work.weights), _beside(work, vector)
    made = operators.convolution(
        of, work.window, work.stored, vector, epilogue, total, group, copied=intrinsic is not None, beside=beside
    )
    weights = work.weights.astype(np.float32 if floats else np.int8)
    packed = operators.pack(weights, work.stored, vector, beside=beside)
    function, note = schedules.convolution(made, isa, work.macs, work.threads, intrinsic)
    return Kernel(function, note, (packed,), made.scratch)


def _dots(work: Work, vector: int, epilogue: Epilogue) -> Kernel:
    """By dot products of four bytes, or by AMX's tiles."""
    isa, weights, window = work.isa, work.weights, work.window
    made = operators.byte_convolution(work.of, window, work.stored, vector, epilogue)
    if operators.folds(work.of, window):
        weights = weights.reshape(*weights.shape[:2], 1, -1)
    packed = operators.pack(weights, work.stored, vector, operators.GROUP)
    if isa.tiles and window.pointwise and made.scratch is None:
        tiled = tiles.pointwise(made, isa, work.macs, work.threads)
        if tiled is not None:
            return Kernel(tiled.function, tiled.note, (packed, tiled.configuration), None)
    intrinsic = widest(isa.dots, packed.shape[3]) if takes(isa.dot, weights) else None
    function, note = schedules.convolution(made, isa, work.macs, work.threads, intrinsic)
    return Kernel(function, note, (packed,), made.scratch)


def _blocks(work: Work, vector: int, epilogue: Epilogue) -> Kernel:
    """By products of blocks (i8mm)."""
    tile = blocks.tile(work.window.output[1], work.stored // vector)
    made = smmla.convolution(work.of, work.window, work.stored, epilogue, tile.half)
    packed = operators.pack(work.weights, work.stored, vector, smmla.GROUP)
    function, note = blocks.convolution(made, tile, work.isa, work.macs, work.threads)
    return Kernel(function, note, (packed,), made.scratch)
