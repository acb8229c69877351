"""The TVM backend: what its code computes, against LiteRT's reference kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from backends.compiled import EXACT, FAST, agree, as_reference, compiled, own_isa, quick
from backends.operators import OneOperator, enumerated
from backends.windows import filled, integers, output_size, windows
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS, InstructionSet
from edgecompile.backends.tvm.planner import Planner
from edgecompile.devices.local import LocalDevice
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read


@quick
@given(windows(dilated=True), st.integers(1, 21), st.integers(1, 35), st.booleans())
def test_convolutions_of_bytes(window: dict[str, Any], channels: int, outputs: int, per_channel: bool) -> None:
    rng = np.random.default_rng(window["seed"])
    (si, so), (zi, zo) = window["scales"], window["zeros"]
    weights = np.maximum(integers(rng, outputs, *window["size"], channels), -127)
    scales = rng.uniform(1e-3, 0.02, outputs if per_channel else 1)
    made = OneOperator()
    made.tensor((1, *window["input"], channels), "int8", [si], zi)
    made.tensor(weights.shape, "int8", list(scales), 0, weights)
    made.tensor((outputs,), "int32", list(scales * si), 0, rng.integers(-9000, 9000, outputs))
    made.tensor((1, *output_size(window), outputs), "int8", [so], zo)
    options = filled(schema.Conv2DOptionsT(), window)
    options.dilationHFactor, options.dilationWFactor = window["dilation"]
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("CONV_2D", "Conv2DOptions", options, Path(folder, "conv.tflite"))
        agree(path, {"t0": integers(rng, 3, *window["input"], channels)}, window["threads"])


@quick
@given(windows(dilated=True), st.integers(1, 40), st.sampled_from((1, 1, 2, 3)))
def test_depthwise_convolutions_of_bytes(window: dict[str, Any], channels: int, multiplier: int) -> None:
    rng = np.random.default_rng(window["seed"])
    (si, so), (zi, zo) = window["scales"], window["zeros"]
    outputs = channels * multiplier
    weights = np.maximum(integers(rng, 1, *window["size"], outputs), -127)
    scales = rng.uniform(1e-3, 0.02, outputs)
    made = OneOperator()
    made.tensor((1, *window["input"], channels), "int8", [si], zi)
    made.tensor(weights.shape, "int8", list(scales), 0, weights, 3)
    made.tensor((outputs,), "int32", list(scales * si), 0, rng.integers(-9000, 9000, outputs))
    made.tensor((1, *output_size(window), outputs), "int8", [so], zo)
    options = filled(schema.DepthwiseConv2DOptionsT(), window)
    options.depthMultiplier = multiplier
    options.dilationHFactor, options.dilationWFactor = window["dilation"]
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, Path(folder, "depthwise.tflite"))
        agree(path, {"t0": integers(rng, 3, *window["input"], channels)}, window["threads"])


def test_a_depthwise_window_of_any_size_is_compiled_to_little_code(tmp_path: Path) -> None:
    """It is unrolled as far as that pays, and no farther."""
    rng, isa, bytes_of_code = np.random.default_rng(0), own_isa(), {}
    for size in (3, 40):
        made, channels = OneOperator(), 32
        weights = integers(rng, 1, size, size, channels)
        made.tensor((1, 48, 48, channels), "int8", [0.1], 5)
        made.tensor(weights.shape, "int8", [0.01] * channels, 0, np.maximum(weights, -127), 3)
        made.tensor((channels,), "int32", [0.001] * channels, 0, np.zeros(channels))
        made.tensor((1, 49 - size, 49 - size, channels), "int8", [0.5], 0)
        options = schema.DepthwiseConv2DOptionsT()
        options.padding, options.strideH, options.strideW = enumerated(schema.Padding, "VALID"), 1, 1
        options.depthMultiplier = options.dilationHFactor = options.dilationWFactor = 1
        path = made.write("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, tmp_path / f"{size}.tflite")
        (tmp_path / str(size)).mkdir()
        file = read(path)
        plan = Planner(file, isa, EXACT, 1).run()
        out = library.build({isa: plan}, own_signature(file), tmp_path / f"{size}.so", tmp_path / str(size))
        bytes_of_code[size] = out.path.stat().st_size - out.weight_bytes
    assert bytes_of_code[40] < 2 * bytes_of_code[3], bytes_of_code
    agree(path, {"t0": integers(rng, 1, 48, 48, channels)})


@quick
@given(windows(), st.integers(1, 200), st.integers(1, 70), st.booleans())
def test_dense_layers_of_bytes(window: dict[str, Any], channels: int, outputs: int, per_channel: bool) -> None:
    rng = np.random.default_rng(window["seed"])
    (si, so), (zi, zo) = window["scales"], window["zeros"]
    weights = integers(rng, outputs, channels)
    made = OneOperator()
    made.tensor((1, channels), "int8", [si], zi)
    scales = rng.uniform(1e-3, 0.02, outputs if per_channel else 1)
    made.tensor(weights.shape, "int8", list(scales), 0, weights)
    made.tensor((outputs,), "int32", list(scales * si), 0, rng.integers(-9000, 9000, outputs))
    made.tensor((1, outputs), "int8", [so], zo)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = enumerated(schema.ActivationFunctionType, window["activation"])
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("FULLY_CONNECTED", "FullyConnectedOptions", options, Path(folder, "dense.tflite"), 12)
        agree(path, {"t0": integers(rng, 3, channels)}, window["threads"])


@pytest.mark.parametrize("per_channel", [False, True])
def test_dense_layers_round_as_litert_near_the_middle(per_channel: bool, tmp_path: Path) -> None:
    """In doubles: of these sums a multiplier of 31 bits, as convolutions have it, makes the next integer."""
    near = (1888628, 5665884, 9443140, 13220396, 16997652)
    for sums, weight, step in (
        (near, 1.0303459930582903e-05, 0.5120895504951477),
        ((-7, -5, -3, -1, 1, 3, 5, 7), 0.5, 0.25),
    ):
        made, weights = OneOperator(), [weight] * (len(sums) if per_channel else 1)
        made.tensor((1, 2), "int8", [0.25], 0)
        made.tensor((len(sums), 2), "int8", weights, 0, np.ones((len(sums), 2)))
        made.tensor((len(sums),), "int32", [each * 0.25 for each in weights], 0, np.array(sums))
        made.tensor((1, len(sums)), "int8", [step], 0)
        options = schema.FullyConnectedOptionsT()
        path = made.write("FULLY_CONNECTED", "FullyConnectedOptions", options, tmp_path / "dense.tflite", 12)
        agree(path, {"t0": np.zeros((1, 2), np.int8)})


@quick
@given(windows(), st.integers(1, 40), st.sampled_from(("AVERAGE_POOL_2D", "MAX_POOL_2D")))
def test_poolings_of_bytes(window: dict[str, Any], channels: int, name: str) -> None:
    rng = np.random.default_rng(window["seed"])
    scale, zero = window["scales"][0], window["zeros"][0]
    made = OneOperator()
    made.tensor((1, *window["input"], channels), "int8", [scale], zero)
    made.tensor((1, *output_size(window), channels), "int8", [scale], zero)
    options = filled(schema.Pool2DOptionsT(), window)
    options.filterHeight, options.filterWidth = window["size"]
    with tempfile.TemporaryDirectory() as folder:
        path = made.write(name, "Pool2DOptions", options, Path(folder, "pool.tflite"), 2)
        agree(path, {"t0": integers(rng, 3, *window["input"], channels)})


@quick
@given(windows(), st.integers(1, 40))
def test_additions_of_bytes(window: dict[str, Any], channels: int) -> None:
    rng = np.random.default_rng(window["seed"])
    shape = (1, *window["input"], channels)
    made = OneOperator()
    made.tensor(shape, "int8", [window["scales"][0]], window["zeros"][0])
    made.tensor(shape, "int8", [window["scales"][1]], window["zeros"][1])
    made.tensor(shape, "int8", [sum(window["scales"])], 3)
    options = schema.AddOptionsT()
    options.fusedActivationFunction = enumerated(schema.ActivationFunctionType, window["activation"])
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("ADD", "AddOptions", options, Path(folder, "add.tflite"), 2)
        agree(path, {name: integers(rng, 3, *shape[1:]) for name in ("t0", "t1")})


@quick
@given(st.integers(0, 1 << 30), st.integers(2, 40), st.floats(1e-3, 0.7), st.floats(0.2, 3.0))
def test_softmax_of_bytes(seed: int, count: int, scale: float, beta: float) -> None:
    made = OneOperator()
    made.tensor((1, count), "int8", [scale], 5)
    made.tensor((1, count), "int8", [1 / 256], -128)
    options = schema.SoftmaxOptionsT()
    options.beta = beta
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("SOFTMAX", "SoftmaxOptions", options, Path(folder, "softmax.tflite"), 2)
        agree(path, {"t0": integers(np.random.default_rng(seed), 4, count)})


@quick
@given(windows(dilated=True), st.integers(1, 21), st.integers(1, 35))
def test_convolutions_of_floats(window: dict[str, Any], channels: int, outputs: int) -> None:
    rng = np.random.default_rng(window["seed"])
    weights, bias = rng.normal(size=(outputs, *window["size"], channels)), rng.normal(size=outputs)
    made = OneOperator()
    made.tensor((1, *window["input"], channels), "float32")
    made.tensor(weights.shape, "float32", constant=weights)
    made.tensor((outputs,), "float32", constant=bias)
    made.tensor((1, *output_size(window), outputs), "float32")
    options = filled(schema.Conv2DOptionsT(), window)
    options.dilationHFactor, options.dilationWFactor = window["dilation"]
    x = {"t0": rng.normal(size=(3, *window["input"], channels)).astype(np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        path = made.write("CONV_2D", "Conv2DOptions", options, Path(folder, "conv.tflite"))
        (expected,) = LiteRtRunner(path, REFERENCE).run(x).values()
        (found,) = compiled(path, FAST, window["threads"]).run(x).values()
    assert np.abs(found - expected).max() <= 1e-5 * max(np.ptp(expected), 1.0)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", ["ic/pretrainedResnet_quant", "kws/kws_ref_model", "ic/pretrainedResnet"])
def test_each_instruction_set(isa: InstructionSet, name: str, data: Path) -> None:
    """All that this CPU has: integers to the bit, floats within 1e-5 of the range."""
    facts = LocalDevice().facts().details
    if isa.arch != facts["machine"] or not set(isa.needs) <= set(facts["features"]):
        pytest.skip(f"{isa.name} wants {isa.arch} with {', '.join(isa.needs)}")
    model = data / "models" / "mlperf_tiny" / f"{name}.tflite"
    (spec,) = own_signature(read(model)).inputs
    rng, shape = np.random.default_rng(1), (4, *spec.shape[1:])
    x = {spec.name: 255 * rng.random(shape, np.float32) if spec.dtype == "float32" else integers(rng, *shape)}
    (expected,) = LiteRtRunner(model, REFERENCE).run(x).values()
    (found,) = compiled(model, EXACT, isa=isa).run(x).values()
    if expected.dtype == np.float32:
        assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)
    else:
        assert np.array_equal(found, expected)


NETWORKS = (
    "mlperf_tiny/ic/pretrainedResnet_quant.tflite", "mlperf_tiny/ic/pretrainedResnet.tflite",
    "mlperf_tiny/vww/vww_96_int8.tflite", "mlperf_tiny/vww/vww_96_float.tflite",
    "mlperf_tiny/kws/kws_ref_model.tflite", "mlperf_tiny/ad/ad01_int8.tflite", "mlperf_tiny/ad/ad01_fp32.tflite",
    "imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite",
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("threads", [1, 2])
def test_networks(name: str, threads: int, data: Path) -> None:
    model = data / "models" / name
    rng = np.random.default_rng(0)
    x = {}
    for spec in own_signature(read(model)).inputs:
        shape = (8, *spec.shape[1:])
        info = None if spec.dtype == "float32" else np.iinfo(spec.dtype)
        array = rng.random(shape) if info is None else rng.integers(info.min, info.max + 1, shape)
        x[spec.name] = array.astype(spec.dtype)
    as_reference(model, x, threads)


def test_samples_of_another_type_than_the_input_stand_for_themselves(data: Path) -> None:
    """Pictures of bytes 0 to 255, for an input that stores them as -128 to 127."""
    model = data / "models/mlperf_tiny/ic/pretrainedResnet_quant.tflite"
    x = {"input_1_int8": np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)}
    (expected,), (found,) = (
        runner.run(x).values() for runner in (LiteRtRunner(model, REFERENCE), compiled(model, EXACT))
    )
    assert np.array_equal(found, expected)
