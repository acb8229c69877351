"""Sums of products in the TVM backend: bytes with a zero point on both sides, 16-bit activations, and batches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import EXACT, agree, compiled, quick, summed
from backends.operators import OneOperator, enumerated
from backends.sums import KINDS, numbers
from backends.windows import filled, output_size, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.errors import UnsupportedLayerError


@settings(quick, max_examples=16)
@given(st.sampled_from(KINDS), windows(dilated=True), st.integers(1, 21), st.integers(1, 35))
def test_bytes_with_a_zero_point_on_both_sides(name: str, window: dict[str, Any], channels: int, outputs: int) -> None:
    summed(name, "uint8", window, channels, outputs, threads=window["threads"])


@settings(quick, max_examples=10)
@given(
    st.sampled_from(("int8", "uint8")), windows(dilated=True), st.integers(1, 3), st.integers(0, 20), st.integers(0, 20)
)
def test_depthwise_of_whole_registers(
    dtype: str, window: dict[str, Any], registers: int, higher: int, wider: int
) -> None:
    """Where columns are taken one by one these are dot products on some CPUs."""
    size = window["input"]
    window |= {"stride": (window["stride"][0], 1), "dilation": (window["dilation"][0], 1)}
    window |= {"input": (size[0] + higher, size[1] + wider), "size": (window["size"][0], 1 + window["seed"] % 7)}
    window["input"] = (window["input"][0], max(window["input"][1], window["size"][1]))
    summed("DEPTHWISE_CONV_2D", dtype, window, 1, 16 * registers, threads=window["threads"])


@pytest.mark.parametrize("channels", [5, 6, 9, 13])
@pytest.mark.parametrize("size", [(1, 4), (3, 7), (1, 3)])
def test_channels_that_fill_no_vector_of_16_bits(channels: int, size: tuple[int, int]) -> None:
    """Of which LLVM computed other integers than those of the code."""
    window = {
        "size": (1, 1), "stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "input": size, "activation": "NONE",
        "seed": 0, "zeros": (0, 0), "scales": (0.5, 0.5),
    }  # fmt: skip
    summed("DEPTHWISE_CONV_2D", "int16", window, 1, channels)


@settings(quick, max_examples=12)
@given(st.sampled_from(KINDS), windows(dilated=True), st.integers(1, 21), st.integers(1, 35))
def test_activations_of_16_bits(name: str, window: dict[str, Any], channels: int, outputs: int) -> None:
    summed(name, "int16", window, channels, outputs, threads=window["threads"])


@settings(quick, max_examples=12)
@given(
    st.sampled_from(KINDS), st.sampled_from(("float32", "int8", "uint8", "int16")), windows(),
    st.integers(1, 9), st.integers(1, 20), st.integers(2, 3),
)  # fmt: skip
def test_sums_of_a_batch(
    name: str, dtype: str, window: dict[str, Any], channels: int, outputs: int, batch: int
) -> None:  # fmt: skip
    summed(name, dtype, window, channels, outputs, batch, window["threads"])


@settings(quick, max_examples=16)
@given(
    st.sampled_from(("AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN")), st.sampled_from(("float32", "int8", "int16")),
    windows(), st.integers(1, 20), st.integers(1, 3),
)  # fmt: skip
def test_windows_of_a_batch(name: str, dtype: str, window: dict[str, Any], channels: int, batch: int) -> None:
    rng = np.random.default_rng(window["seed"])
    scale, zero = window["scales"][0], window["zeros"][0] if dtype == "int8" else 0
    made = OneOperator()
    made.tensor((batch, *window["input"], channels), dtype, [scale] if dtype != "float32" else [], zero)
    if name == "MEAN":
        made.tensor((2,), "int32", constant=np.array([1, 2]))
        options: Any = schema.ReducerOptionsT()
        left: tuple[int, ...] = (batch, channels)
    else:
        options = filled(schema.Pool2DOptionsT(), window)
        options.filterHeight, options.filterWidth = window["size"]
        left = (batch, *output_size(window), channels)
    made.tensor(left, dtype, [scale] if dtype != "float32" else [], zero)
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(name, f"{'Reducer' if name == 'MEAN' else 'Pool2D'}Options", options, Path(folder, "m"), 3)
        agree(path, {"t0": numbers(rng, dtype, 3, *window["input"], channels)})


@settings(quick, max_examples=12)
@given(
    st.sampled_from(("ADD", "SUB", "MUL", "LOGISTIC", "TANH", "QUANTIZE", "DEQUANTIZE", "CONCATENATION")),
    windows(), st.booleans(),
)  # fmt: skip
def test_elements_of_16_bits(name: str, window: dict[str, Any], constant: bool) -> None:
    rng = np.random.default_rng(window["seed"])
    (first, second), shape = [scale / 256 for scale in window["scales"]], (1, *window["input"])
    two = name in ("ADD", "SUB", "MUL", "CONCATENATION")
    made = OneOperator()
    if name == "CONCATENATION":
        second = first
    made.tensor(shape, "int16", [first])
    if two:
        constant = constant and name != "CONCATENATION"
        made.tensor(shape, "int16", [second], 0, numbers(rng, "int16", *shape) if constant else None)
    into = {"DEQUANTIZE": "float32", "QUANTIZE": "int8"}.get(name, "int16")
    scale = {"LOGISTIC": 1 / 32768, "TANH": 1 / 32768, "MUL": 9e3 * first * second, "CONCATENATION": first}.get(
        name, first + second
    )
    left = (*shape[:-1], shape[-1] * 2) if name == "CONCATENATION" else shape
    made.tensor(left, into, [scale] if into != "float32" else [], 0)
    table = {"LOGISTIC": "NONE", "TANH": "NONE"}.get(name, f"{name.title()}Options")
    options: Any = None if table == "NONE" else getattr(schema, f"{table}T")()
    if name in ("ADD", "SUB"):
        options.potScaleInt16 = False
    if name == "CONCATENATION":
        options.axis = -1
    x = {"t0": numbers(rng, "int16", 3, *shape[1:])}
    if two and not constant:
        x["t1"] = numbers(rng, "int16", 3, *shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        version = 3 if table == "NONE" else 4
        agree(made.write(name, table, options, Path(folder, "m"), version), x)


@pytest.mark.parametrize(
    ("name", "kind", "left"),
    [("RESIZE_BILINEAR", "ResizeBilinearOptions", (9, 12)), ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions",
     (4, 11)), ("RSQRT", "NONE", (5, 7)), ("SQRT", "NONE", (5, 7))],
)  # fmt: skip
def test_resizing_and_roots_of_16_bits(name: str, kind: str, left: tuple[int, int], tmp_path: Path) -> None:
    rng, root = np.random.default_rng(3), kind == "NONE"
    made = OneOperator()
    made.tensor((1, 5, 7, 6), "int16", [0.001])
    if not root:
        made.tensor((2,), "int32", constant=np.array(left))
    made.tensor((1, *left, 6), "int16", [0.0005 if root else 0.001])
    options = None if root else getattr(schema, f"{kind}T")()
    x = rng.integers(1 if root else -32768, 32768, (3, 5, 7, 6)).astype(np.int16)
    agree(made.write(name, kind, options, tmp_path / "m.tflite", 1), {"t0": x})


def test_integer_weights_with_a_scale_a_block(tmp_path: Path) -> None:
    """They have no scale of the whole tensor, or of a channel."""
    made = OneOperator()
    made.tensor((1, 32), "float32")
    made.tensor((8, 32), "int8", constant=np.ones((8, 32)))
    made.tensor((1, 8), "float32")
    path = made.write("FULLY_CONNECTED", "FullyConnectedOptions", schema.FullyConnectedOptionsT(), tmp_path / "m")
    with pytest.raises(UnsupportedLayerError, match=r"operator 0 \(FULLY_CONNECTED, 't2'\): its integer weights have"):
        compiled(path, EXACT)


def test_sums_that_float32_does_not_hold(tmp_path: Path) -> None:
    """A depthwise window that sums up to more than 2^24, and a bias that takes all of that but little away again."""
    rng, size, channels = np.random.default_rng(0), 17, 9
    x, weights = (rng.integers(245, 256, (1, size, size, channels)) for _ in range(2))
    made = OneOperator()
    made.tensor((1, size, size, channels), "uint8", [0.1], 0)
    made.tensor(weights.shape, "uint8", [0.01], 0, weights, 3)
    made.tensor((channels,), "int32", [0.001], 0, 100 - (x * weights).sum(axis=(0, 1, 2)))
    made.tensor((1, 1, 1, channels), "uint8", [0.001], 3)
    options = schema.DepthwiseConv2DOptionsT()
    options.padding, options.strideH, options.strideW = enumerated(schema.Padding, "VALID"), 1, 1
    options.depthMultiplier = options.dilationHFactor = options.dilationWFactor = 1
    path = made.write("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, tmp_path / "m.tflite")
    agree(path, {"t0": x.astype(np.uint8)})
