"""Operators of the TVM backend that put elements elsewhere, resize, compare or choose: against LiteRT's kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import agree, quick
from backends.operators import OneOperator, enumerated
from backends.windows import Array, filled, output_size, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.backends.litert import BUILTIN, REFERENCE

bytes_or_floats = st.sampled_from(("int8", "float32"))
seeds = st.integers(0, 1 << 30)

UNREFERENCED = ("CEIL", "ROUND", "ELU")  # LiteRT's reference kernels lack them


class Case:
    """An operator on tensors of one type, which are quantized alike where they are bytes."""

    def __init__(self, dtype: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype, self.made = dtype, OneOperator()
        self.x: dict[str, Array] = {}

    def numbers(self, dtype: str, shape: Sequence[int]) -> Array:
        if dtype == "float32":
            return self.rng.normal(size=shape).astype(np.float32)
        if dtype == "bool":
            return self.rng.integers(0, 2, shape).astype(bool)
        return self.rng.integers(-128, 128, shape).astype(dtype)

    def given(self, *shape: int, dtype: str = "", scale: float = 0.1, zero: int = 11) -> None:
        kind = dtype or self.dtype
        name = f"t{len(self.made.tensors)}"
        self.made.tensor(shape, kind, [scale] if kind == "int8" else [], zero)
        self.x[name] = self.numbers(kind, (3 * shape[0], *shape[1:]))

    def known(self, values: Any, dtype: str = "int32") -> None:
        array = np.array(values)
        self.made.tensor(array.shape, dtype, constant=array)

    def left(self, *shape: int, dtype: str = "", scale: float = 0.1, zero: int = 11) -> None:
        kind = dtype or self.dtype
        self.made.tensor(shape, kind, [scale] if kind == "int8" else [], zero)

    def judged(self, name: str, kind: str = "NONE", version: int = 2, made: int = 1, **fields: Any) -> None:
        options = None if kind == "NONE" else getattr(schema, f"{kind}T")()
        for field, value in fields.items():
            setattr(options, field, value)
        with tempfile.TemporaryDirectory() as folder:
            path = self.made.write(name, kind, options, Path(folder, "m.tflite"), version, made)
            agree(path, self.x, kernels=BUILTIN if name in UNREFERENCED else REFERENCE)

    def sizes(self, count: int, most: int = 9) -> list[int]:
        return [int(size) for size in self.rng.integers(1, most, count)]


def _unpack(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(1, h, w, c)
    for _ in range(w):
        case.left(1, h, c)
    case.judged("UNPACK", "UnpackOptions", made=w, num=w, axis=2)


def _tile(case: Case) -> None:
    shape, times = (1, *case.sizes(2)), [1, *case.sizes(2, 4)]
    case.given(*shape)
    case.known(times)
    case.left(*(size * many for size, many in zip(shape, times, strict=True)))
    case.judged("TILE", "TileOptions")


def _broadcast(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(1, h, 1, c)
    case.known([1, h, w, c])
    case.left(1, h, w, c)
    case.judged("BROADCAST_TO", "BroadcastToOptions")


def _to_space(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(1, h, w, 4 * c)
    case.left(1, 2 * h, 2 * w, c)
    case.judged("DEPTH_TO_SPACE", "DepthToSpaceOptions", version=1, blockSize=2)


def _to_depth(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(1, 3 * h, 3 * w, c)
    case.left(1, h, w, 9 * c)
    case.judged("SPACE_TO_DEPTH", "SpaceToDepthOptions", blockSize=3)


def _to_batch(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(1, 2 * h - 1, 3 * w + 1, c)
    case.known([2, 3])
    case.known([[1, 0], [0, 2]])
    case.left(6, h, w + 1, c)
    case.judged("SPACE_TO_BATCH_ND", "SpaceToBatchNDOptions")


def _from_batch(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(6, h + 1, w + 1, c)
    case.known([2, 3])
    case.known([[1, 0], [1, 2]])
    case.left(1, 2 * h + 1, 3 * w, c)
    case.judged("BATCH_TO_SPACE_ND", "BatchToSpaceNDOptions")


def _mirror(case: Case) -> None:
    shape = [1, *(size + 2 for size in case.sizes(2)), 3]
    pads = [[0, 0], [2, 1], [0, 2], [1, 0]]
    case.given(*shape)
    case.known(pads)
    case.left(*(size + sum(pad) for size, pad in zip(shape, pads, strict=True)))
    mode = case.rng.choice(["REFLECT", "SYMMETRIC"])
    case.judged("MIRROR_PAD", "MirrorPadOptions", mode=enumerated(schema.MirrorPadMode, mode))


def _gather_nd(case: Case) -> None:
    h, w, c = case.sizes(3)
    table = case.numbers(case.dtype, (h, w, c))
    case.made.tensor(table.shape, case.dtype, [0.1] if case.dtype == "int8" else [], 11, table)
    case.given(1, 5, 2, dtype="int32")
    case.x["t1"] = np.stack([case.rng.integers(0, h, (3, 5)), case.rng.integers(0, w, (3, 5))], -1).astype(np.int32)
    case.left(1, 5, c)
    case.judged("GATHER_ND", "GatherNdOptions")


def _gather_of_a_batch(case: Case) -> None:
    h, w, c = case.sizes(3)
    case.given(2, h, w, c)
    case.given(2, 4, dtype="int32")
    case.x["t1"] = case.rng.integers(0, h, (6, 4)).astype(np.int32)
    case.left(2, 4, w, c)
    case.judged("GATHER", "GatherOptions", version=5, axis=1, batchDims=1)


def _strided(case: Case) -> None:
    """x[:, new, 1:, ..., 0]"""
    h, w, c = case.sizes(3)
    case.given(1, h + 1, w, c)
    case.known([0, 0, 1, 0, 0])
    case.known([0, 0, 0, 0, 1])
    case.known([1, 1, 1, 1, 1])
    case.left(1, 1, h, w)
    case.judged("STRIDED_SLICE", "StridedSliceOptions", beginMask=1, endMask=5, newAxisMask=2, ellipsisMask=8,
                shrinkAxisMask=16)  # fmt: skip


def _resize(name: str, options: dict[str, bool]) -> Callable[[Case], None]:
    def of(case: Case) -> None:
        h, w, c = case.sizes(3, 12)
        rows, columns = case.sizes(2, 25)
        case.given(1, h, w, c)
        case.known([rows, columns])
        case.left(1, rows, columns, c)
        kind = "ResizeBilinearOptions" if name == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
        case.judged(name, kind, version=3, **options)

    return of


RESIZES = tuple(
    _resize(name, options)
    for name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
    for options in ({}, {"alignCorners": True}, {"halfPixelCenters": True})
)
PLACES = (
    _unpack, _tile, _broadcast, _to_space, _to_depth, _to_batch, _from_batch, _mirror, _gather_nd, _gather_of_a_batch,
    _strided,
)  # fmt: skip


@settings(quick, max_examples=24)
@given(st.sampled_from((*PLACES, *RESIZES)), bytes_or_floats, seeds)
def test_elements_elsewhere(of: Callable[[Case], None], dtype: str, seed: int) -> None:
    of(Case(dtype, seed))


COMPARISONS = {
    "EQUAL": "EqualOptions", "NOT_EQUAL": "NotEqualOptions", "LESS": "LessOptions", "GREATER": "GreaterOptions",
    "LESS_EQUAL": "LessEqualOptions", "GREATER_EQUAL": "GreaterEqualOptions",
}  # fmt: skip


@settings(quick, max_examples=8)
@given(st.sampled_from(list(COMPARISONS)), st.sampled_from(("int8", "float32", "int32")), seeds, st.booleans())
def test_comparisons(name: str, dtype: str, seed: int, alike: bool) -> None:
    case = Case(dtype, seed)
    h, c = case.sizes(2, 20)
    case.given(1, h, c)
    case.given(1, 1, c, scale=0.1 if alike else 0.17, zero=11 if alike else -20)
    if dtype == "float32":
        case.x = {key: np.round(value) for key, value in case.x.items()}
    case.left(1, h, c, dtype="bool")
    case.judged(name, COMPARISONS[name])


@settings(quick, max_examples=4)
@given(st.sampled_from(("AND", "OR", "NOT")), seeds)
def test_truth_values(name: str, seed: int) -> None:
    case = Case("bool", seed)
    size = case.sizes(1, 20)[0]
    case.given(1, size)
    if name != "NOT":
        case.given(1, size)
    case.left(1, size)
    case.judged(f"LOGICAL_{name}", f"Logical{name.title()}Options", version=1)


@settings(quick, max_examples=4)
@given(st.sampled_from((("bool", "float32"), ("bool", "int32"), ("float32", "bool"), ("int32", "float32"))), seeds)
def test_other_types(types: tuple[str, str], seed: int) -> None:
    case = Case(types[0], seed)
    case.given(1, 37)
    case.x["t0"][:, :20] = 0
    case.left(1, 37, dtype=types[1])
    case.judged("CAST", "CastOptions", version=1)


@settings(quick, max_examples=4)
@given(st.sampled_from(("SELECT", "SELECT_V2")), st.sampled_from(("int8", "float32", "int32")), seeds)
def test_choices(name: str, dtype: str, seed: int) -> None:
    case = Case(dtype, seed)
    h, c = case.sizes(2, 20)
    case.given(1, h, c if name == "SELECT" else 1, dtype="bool")
    case.given(1, h, c)
    case.given(1, h, c)
    case.left(1, h, c)
    case.judged(name, "SelectOptions" if name == "SELECT" else "SelectV2Options", version=1)


@settings(quick, max_examples=16)
@given(st.sampled_from(("LOG_SOFTMAX", "L2_NORMALIZATION", "ARG_MAX", "ARG_MIN", "CUMSUM", "SIN", "COS", "FLOOR",
                        "CEIL", "ROUND", "ELU", "POW")), seeds)  # fmt: skip
def test_rows_of_floats(name: str, seed: int) -> None:
    case = Case("float32", seed)
    h, c = case.sizes(2, 20)
    case.given(1, h, c)
    case.x["t0"] *= 3
    place, fields = name.startswith("ARG"), {}
    if place or name == "CUMSUM":
        case.known(-1)
    if name == "POW":
        case.x["t0"] = np.abs(case.x["t0"])
        case.given(1, h, c)
    if name == "CUMSUM":
        fields = {"exclusive": bool(seed & 1), "reverse": bool(seed & 2)}
    case.left(*((1, h) if place else (1, h, c)), dtype="int32" if place else "")
    if place:
        fields = {"outputType": schema.TensorType.INT32}
    kind = {"LOG_SOFTMAX": "LogSoftmaxOptions", "L2_NORMALIZATION": "L2NormOptions", "ARG_MAX": "ArgMaxOptions",
            "ARG_MIN": "ArgMinOptions", "CUMSUM": "CumsumOptions", "COS": "CosOptions",
            "POW": "PowOptions"}  # fmt: skip
    case.judged(name, kind.get(name, "NONE"), version=1, **fields)


@settings(quick, max_examples=8)
@given(st.sampled_from(("PRELU", "ELU", "ARG_MAX")), bytes_or_floats, seeds)
def test_rows_of_bytes_too(name: str, dtype: str, seed: int) -> None:
    case = Case(dtype, seed)
    h, w, c = case.sizes(3, 20)
    case.given(1, h, w, c)
    if name == "PRELU":
        alpha = case.numbers(dtype, (1, 1, c))
        case.made.tensor(alpha.shape, dtype, [0.02] if dtype == "int8" else [], -3, alpha)
    if name == "ARG_MAX":
        case.known(2)
        case.left(1, h, c, dtype="int32")
        case.judged(name, "ArgMaxOptions", outputType=schema.TensorType.INT32)
        return
    case.left(1, h, w, c, scale=0.13, zero=4)
    case.judged(name, version=1)


@settings(quick, max_examples=10)
@given(windows(), st.sampled_from(("float32", "int8")), st.integers(1, 12), st.integers(1, 20))
def test_transposed_convolutions(window: dict[str, Any], dtype: str, channels: int, outputs: int) -> None:
    case = Case(dtype, window["seed"])
    given, size, stride = window["input"], window["size"], window["stride"]
    same = window["padding"] == "SAME"
    left = [n * s if same else (n - 1) * s + k for n, k, s in zip(given, size, stride, strict=True)]
    case.known([1, *left, outputs])
    weights = case.numbers(dtype, (outputs, *size, channels))
    scales = list(case.rng.uniform(1e-3, 0.02, outputs)) if dtype == "int8" else []
    case.made.tensor(weights.shape, dtype, scales, 0, weights)
    case.given(1, *given, channels, zero=window["zeros"][0])
    bias = case.rng.integers(-900, 900, outputs) if dtype == "int8" else case.rng.normal(size=outputs)
    kind = "int32" if dtype == "int8" else dtype
    case.made.tensor((outputs,), kind, [s * 0.1 for s in scales], 0, bias)
    case.left(1, *left, outputs, scale=window["scales"][1], zero=window["zeros"][1])
    case.judged("TRANSPOSE_CONV", "TransposeConvOptions", version=3, padding=enumerated(
        schema.Padding, window["padding"]), strideH=stride[0], strideW=stride[1])  # fmt: skip


@settings(quick, max_examples=6)
@given(windows(dilated=True), st.sampled_from(("float32", "int8")), st.integers(1, 6), st.integers(1, 9))
def test_groups_of_channels(window: dict[str, Any], dtype: str, channels: int, outputs: int) -> None:
    case, groups = Case(dtype, window["seed"]), 3
    weights = case.numbers(dtype, (groups * outputs, *window["size"], channels))
    scales = [0.01] * groups * outputs if dtype == "int8" else []
    case.given(1, *window["input"], groups * channels, zero=window["zeros"][0])
    case.made.tensor(weights.shape, dtype, scales, 0, weights)
    kind, bias = ("int32" if scales else dtype), case.rng.integers(-900, 900, groups * outputs)
    case.made.tensor(bias.shape, kind, [0.1 * s for s in scales], 0, bias)
    case.left(1, *output_size(window), groups * outputs, scale=window["scales"][1])
    options = filled(schema.Conv2DOptionsT(), window)
    options.dilationHFactor, options.dilationWFactor = window["dilation"]
    with tempfile.TemporaryDirectory() as folder:
        agree(case.made.write("CONV_2D", "Conv2DOptions", options, Path(folder, "m.tflite")), case.x)
