"""Two operators, one behind the other, in the TVM backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import EXACT, agree, own_isa
from backends.operators import OneOperator
from backends.windows import Array, filled, integers

from edgecompile.backends.tvm.planner import Planner
from edgecompile.tflite_file import read

SIZE = 8
WINDOW = {"size": (3, 3), "dilation": (1, 1), "stride": (1, 1), "padding": "SAME", "activation": "NONE"}
NONE, RELU = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU


def weighted(made: OneOperator, rng: np.random.Generator, outputs: int, channels: int) -> None:
    """Weights and bias of a 3x3 convolution of bytes whose scale is 0.1."""
    made.tensor((outputs, 3, 3, channels), "int8", [0.01] * outputs, 0, integers(rng, outputs, 3, 3, channels))
    made.tensor((outputs,), "int32", [0.001] * outputs, 0, rng.integers(-900, 900, outputs))


def images(rng: np.random.Generator, channels: int) -> Array:
    return rng.integers(-128, 128, (3, SIZE, SIZE, channels)).astype(np.int8)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7])
def test_a_convolution_of_few_channels_behind_another(channels: int, tmp_path: Path) -> None:
    """In memory they lie among others that fill a register."""
    rng, made = np.random.default_rng(channels), OneOperator()
    made.tensor((1, SIZE, SIZE, 3), "int8", [0.1], 3)
    weighted(made, rng, channels, 3)
    made.tensor((1, SIZE, SIZE, channels), "int8", [0.1], -5, inner=True)
    weighted(made, rng, 6, channels)
    made.tensor((1, SIZE, SIZE, 6), "int8", [0.2], 1)
    options = filled(schema.Conv2DOptionsT(), WINDOW)
    made.in_front("CONV_2D", "Conv2DOptions", options, [0, 1, 2], 3)
    model = made.write("CONV_2D", "Conv2DOptions", options, tmp_path / "m.tflite", takes=[3, 4, 5])
    agree(model, {"t0": images(rng, 3)})


@pytest.mark.parametrize("zero", [0, 127])
def test_an_addition_behind_a_convolution(zero: int, tmp_path: Path) -> None:
    """It is part of the convolution's kernel; not where its RELU leaves one number alone, as nothing reads the sums."""
    rng, made = np.random.default_rng(0), OneOperator()
    made.tensor((1, SIZE, SIZE, 16), "int8", [0.1], 3)
    weighted(made, rng, 16, 16)
    made.tensor((1, SIZE, SIZE, 16), "int8", [0.1], 0, inner=True)
    made.tensor((1, SIZE, SIZE, 16), "int8", [0.2], zero)
    made.in_front("CONV_2D", "Conv2DOptions", filled(schema.Conv2DOptionsT(), WINDOW), [0, 1, 2], 3)
    options = schema.AddOptionsT()
    options.fusedActivationFunction = RELU
    model = made.write("ADD", "AddOptions", options, tmp_path / "m.tflite", takes=[0, 3])
    agree(model, {"t0": images(rng, 16)})
    steps = Planner(read(model), own_isa(), EXACT, 1).run().steps
    assert ((0, 1) in [step.operators for step in steps]) == (zero == 0)
