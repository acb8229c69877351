"""Padding in front of convolutions, which read the zeros themselves, in the TVM backend."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import EXACT, agree, own_isa, quick
from backends.operators import OneOperator
from backends.windows import Array, filled, integers, output_size, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.backends.tvm.planner import Planner
from edgecompile.tflite_file import read


def padded(
    path: Path, dtype: str, window: dict[str, Any], pads: list[int], deep: bool
) -> tuple[Path, dict[str, Array]]:
    """A PAD of [above, below, left, right] and a convolution."""
    rng, channels = np.random.default_rng(window["seed"]), 5
    whole, scale = dtype == "int8", window["scales"][0]
    zero = window["zeros"][0]
    given = window["input"][0] + 4, window["input"][1] + 4
    size = given[0] + pads[0] + pads[1], given[1] + pads[2] + pads[3]
    window = {**window, "padding": "VALID", "input": size}
    outputs = channels if deep else 7
    shape = (1, *window["size"], outputs) if deep else (outputs, *window["size"], channels)
    weights = np.maximum(integers(rng, *shape), -127) if whole else rng.normal(size=shape)
    scales = [0.01] * outputs if whole else []
    made = OneOperator()
    made.tensor((1, *given, channels), dtype, [scale] if whole else [], zero)
    made.tensor((4, 2), "int32", constant=np.array([[0, 0], pads[:2], pads[2:], [0, 0]]))
    made.tensor((1, *size, channels), dtype, [scale] if whole else [], zero, inner=True)
    made.tensor(shape, dtype, scales, 0, weights, 3 if deep else 0)
    bias = rng.integers(-900, 900, outputs)
    made.tensor((outputs,), "int32" if whole else dtype, [s * scale for s in scales], 0, bias)
    made.tensor((1, *output_size(window), outputs), dtype, [window["scales"][1]] if whole else [], 3)
    made.in_front("PAD", "PadOptions", schema.PadOptionsT(), [0, 1], 2)
    options = filled(schema.DepthwiseConv2DOptionsT() if deep else schema.Conv2DOptionsT(), window)
    options.dilationHFactor, options.dilationWFactor = window["dilation"]
    if deep:
        options.depthMultiplier = 1
    name, kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if deep else ("CONV_2D", "Conv2DOptions")
    x = rng.integers(-128, 128, (3, *given, channels)) if whole else rng.normal(size=(3, *given, channels))
    return made.write(name, kind, options, path, takes=[2, 3, 4]), {"t0": x.astype(dtype)}


@settings(quick, max_examples=8)
@given(st.sampled_from(("int8", "float32")), windows(dilated=True), st.lists(st.integers(0, 3), min_size=4, max_size=4),
       st.booleans())  # fmt: skip
def test_zeros_in_front_of_a_convolution(dtype: str, window: dict[str, Any], pads: list[int], deep: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agree(*padded(Path(folder, "m.tflite"), dtype, window, pads, deep), window["threads"])


WINDOW = {"size": (3, 3), "dilation": (1, 1), "input": (6, 6), "stride": (2, 2), "activation": "NONE", "seed": 1,
          "zeros": (4, 0), "scales": (0.1, 0.4)}  # fmt: skip


@pytest.mark.parametrize("deep", [False, True])
def test_it_is_one_call(deep: bool, tmp_path: Path) -> None:
    path, _ = padded(tmp_path / "m.tflite", "int8", WINDOW, [0, 1, 0, 1], deep)
    isa = own_isa()
    steps = [step for step in Planner(read(path), isa, EXACT, 1).run().steps if step.operators]
    assert [step.operators for step in steps] == [(0, 1)]
