"""Models of one operator that is a sum of products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from backends.operators import OneOperator, enumerated
from backends.windows import Array, filled, output_size

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Of activations: the type of weights and of a bias.
TYPES = {"uint8": ("uint8", "int32"), "int8": ("int8", "int32"), "int16": ("int8", "int64")}


def numbers(rng: np.random.Generator, dtype: str, *shape: int) -> Array:
    if dtype == "float32":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def one_sum(
    name: str, dtype: str, window: dict[str, Any], channels: int, outputs: int, batch: int, folder: Path
) -> tuple[Path, dict[str, Array]]:
    """(a model of one operator of KINDS, inputs for it)"""
    rng = np.random.default_rng(window["seed"])
    kind, biases = TYPES.get(dtype, ("float32", "float32"))
    (si, so), (zi, zo), zw = window["scales"], window["zeros"], 0
    scales = rng.uniform(1e-3, 0.02, 1 if dtype == "uint8" or name == "FULLY_CONNECTED" else outputs)
    if dtype == "uint8":
        zi, zo, zw = zi + 128, zo + 128, int(rng.integers(1, 256))
    if dtype == "int16":
        zi, zo, si, so = 0, 0, si / 256, so / 256
    size = window["size"]
    shapes = {
        "CONV_2D": ((*window["input"], channels), (outputs, *size, channels), (*output_size(window), outputs)),
        "DEPTHWISE_CONV_2D": ((*window["input"], outputs), (1, *size, outputs), (*output_size(window), outputs)),
        "FULLY_CONNECTED": ((channels,), (outputs, channels), (outputs,)),
    }
    given, weighted, left = shapes[name]
    weights = numbers(rng, kind, *weighted)
    whole = dtype != "float32"
    made = OneOperator()
    made.tensor((batch, *given), dtype, [si] if whole else [], zi)
    made.tensor(weighted, kind, list(scales) if whole else [], zw, weights, 3 if name.startswith("DEPTH") else 0)
    bias = rng.integers(-9000, 9000, outputs) if whole else rng.normal(size=outputs)
    made.tensor((outputs,), biases, list(scales * si) if whole else [], 0, bias)
    made.tensor((batch, *left), dtype, [so] if whole else [], zo)
    options: Any
    if name == "FULLY_CONNECTED":
        options, table = schema.FullyConnectedOptionsT(), "FullyConnectedOptions"
        options.fusedActivationFunction = enumerated(schema.ActivationFunctionType, window["activation"])
    else:
        options = schema.Conv2DOptionsT() if name == "CONV_2D" else schema.DepthwiseConv2DOptionsT()
        table = "Conv2DOptions" if name == "CONV_2D" else "DepthwiseConv2DOptions"
        options = filled(options, window)
        options.dilationHFactor, options.dilationWFactor = window["dilation"]
        if name != "CONV_2D":
            options.depthMultiplier = 1
    path = made.write(name, table, options, folder / "operator.tflite", 4 if dtype == "int16" else 3)
    return path, {"t0": numbers(rng, dtype, 3, *given)}
