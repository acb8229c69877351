"""A .tflite as an ONNX graph: what it computes, and what is refused where it is for TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.backends.onnx.graph import OLD_OPSET, OPSET, check_symmetric
from edgecompile.backends.onnx.graph import export as export_graph
from edgecompile.backends.onnx.runner import OnnxRunner
from edgecompile.backends.sessions import described
from edgecompile.backends.tensorrt.engine import read_times, reason
from edgecompile.backends.tensorrt.integers import quantize
from edgecompile.errors import ConversionError, DataError, DeviceError, UnsupportedLayerError
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read, slim

FLOAT = (
    "mlperf_tiny/ic/pretrainedResnet.tflite",
    "mlperf_tiny/vww/vww_96_float.tflite",
    "mlperf_tiny/ad/ad01_fp32.tflite",
    "text/sst2_transformer_fp32.tflite",  # with GELU, which tf2onnx doesn't know
)


def export(model: Path, out: Path) -> None:
    """As TensorRT takes it."""
    export_graph(model, out, opset=OLD_OPSET, symmetric=True)


def same(model: Path, graph: Path, high: float = 1.0) -> OnnxRunner:
    """Three random samples through both: equal names, shapes and, within 1e-5 of the range, values."""
    export(model, graph)
    runner = OnnxRunner(graph)
    signature = read(model).signature
    assert [t.name for t in runner.inputs] == [t.name for t in signature.inputs]
    rng = np.random.default_rng(0)
    x = {t.name: (high * rng.random((3, *t.shape[1:]))).astype(t.dtype) for t in signature.inputs}
    expected, given = LiteRtRunner(model, REFERENCE).run(x), runner.run(x)
    assert list(given) == list(expected)
    for name, array in expected.items():
        assert np.abs(given[name] - array).max() <= 1e-5 * max(np.ptp(array), 1e-3)
    return runner


@pytest.mark.parametrize("name", FLOAT)
def test_it_computes_what_the_file_does(name: str, data: Path, tmp_path: Path) -> None:
    runner = same(data / "models" / name, tmp_path / "model.onnx", high=200.0 if "text" in name else 1.0)
    assert all(spec.shape[0] == 1 for spec in (*runner.inputs, *runner.outputs))
    with pytest.raises(DataError, match="the model expects samples of shape"):
        runner.run({spec.name: np.zeros((1, 7, 7, 7, 7)) for spec in runner.inputs})


def test_the_approximate_gelu(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    x = keras.Input((6,), name="x")
    inner = keras.layers.Dense(8)(x)
    model = keras.Model(x, keras.layers.Dense(3, name="y")(keras.activations.gelu(inner, approximate=True)))
    file = tmp_path / "gelu.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    operators = [op for op in read(file).main.operators if op.name == "GELU"]
    assert [op.options["approximate"] for op in operators] == [True]
    same(file, tmp_path / "gelu.onnx", high=4.0)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_bias_behind_a_flattened_input(activation: str | None, tmp_path: Path) -> None:
    """TensorFlow's converter leaves the flattening to FULLY_CONNECTED, and tf2onnx then forgets the bias."""
    import keras
    import tensorflow as tf

    x = keras.Input(batch_shape=(1, 4, 4, 3), name="x")
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    inner = keras.layers.Dense(8, activation=activation, bias_initializer="normal")(keras.layers.Flatten()(pooled))
    model = keras.Model(x, keras.layers.Dense(3, name="y", bias_initializer="normal")(inner))
    file = tmp_path / "flat.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    graph = read(file).main
    first = next(op for op in graph.operators if op.name == "FULLY_CONNECTED")
    assert len(graph.tensors[first.inputs[0]].shape) == 4
    same(file, tmp_path / "flat.onnx")


def test_in_symmetric_int8(data: Path, tmp_path: Path) -> None:
    """One scale for each output channel of the weights, which TensorRT would call a quantized network's."""
    import onnx

    graph, path = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export(data / "models/mlperf_tiny/ic/pretrainedResnet.tflite", graph)
    floats = OnnxRunner(graph)
    rng = np.random.default_rng(0)
    x = {floats.inputs[0].name: (255 * rng.random((24, 32, 32, 3))).astype(np.float32)}
    quantize(graph, [{name: array[i : i + 1] for name, array in x.items()} for i in range(16)], path)
    check_symmetric(onnx.load(path))
    nodes = onnx.load(path).graph
    scales = {each.name: list(each.dims) for each in nodes.initializer if each.name.endswith("_scale")}
    quantized = [node for node in nodes.node if node.op_type in ("Conv", "MatMul")]
    made = {node.output[0]: node for node in nodes.node}
    for node in quantized:
        assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        assert len(scales[made[node.input[1]].input[1]]) == 1
    assert len(quantized) == 10
    expected, given = floats.run(x), OnnxRunner(path).run(x)
    for name, array in expected.items():
        error = given[name] - array
        assert 0 < np.sqrt(np.mean(np.square(error))) < 0.15 * np.sqrt(np.mean(np.square(array)))


def test_integers_without_a_zero_point_are_unsigned_to_onnx() -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("QuantizeLinear", ["x", "scale"], ["y"], name="q")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5])
    with pytest.raises(UnsupportedLayerError, match="'q' has a zero point other than int8 0"):
        check_symmetric(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [scale])))


def test_names_that_are_each_others(tmp_path: Path) -> None:
    """A signature may call one input as the file calls the other."""
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, "b"), tf.TensorSpec((1, 4), tf.float32, "a")])
        def __call__(self, a: object, b: object) -> dict[str, object]:
            return {"y": tf.nn.relu(a - 2 * b)}

    model = Model()
    signature = model.__call__.get_concrete_function()
    file = tmp_path / "swapped.tflite"
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures=signature)
    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert())
    same(file, tmp_path / "swapped.onnx")


def test_a_size_that_is_free_is_refused(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    x = keras.Input((None, None, 3), name="x")
    model = keras.Model(x, keras.layers.Conv2D(4, 3, name="y")(x))
    file = tmp_path / "free.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    with pytest.raises(UnsupportedLayerError, match="a size that is free"):
        export(file, tmp_path / "free.onnx")


@pytest.mark.parametrize("name", ["mlperf_tiny/ic/pretrainedResnet_quant.tflite", "mlperf_tiny/ad/ad01_int8.tflite"])
def test_zero_points_are_refused(name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match="zero point other than int8 0") as caught:
        export(data / "models" / name, tmp_path / "model.onnx")
    assert "give the float model" in caught.value.format_message()
    assert not (tmp_path / "model.onnx").exists()


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ConversionError, match=r"ONNX Runtime refused model\.onnx"):
        OnnxRunner(tmp_path / "model.onnx")


def test_times_of_trtexec() -> None:
    # Two of the entries of --exportTimes, by the fields that TensorRT's own tracer.py reads.
    entry = (
        '{"startInMs": 1.0, "endInMs": 1.1, "startComputeMs": 1.1, "endComputeMs": 1.9, "startOutMs": 1.9, '
        '"endOutMs": 2.0, "inMs": 0.1, "computeMs": 0.8, "outMs": 0.1, "latencyMs": %s}'
    )
    assert read_times(f"[{entry % 1.0}, {entry % 1.25}]") == [1.0, 1.25]
    for text in ("", "[]", "{}", "[1]", '[{"computeMs": 1}]'):
        with pytest.raises(DeviceError, match="trtexec's times"):
            read_times(text)


def test_errors_of_trtexec_are_found_in_its_log() -> None:
    log = [
        "[03/28/2024-07:10:12] [I] TensorRT version: 8.6.3",
        "[03/28/2024-07:10:16] [E] [TRT] ModelImporter.cpp:771: While parsing node number 3 [Resize -> \"x\"]:",
        "[03/28/2024-07:10:16] [E] Failed to parse onnx file",
        "&&&& FAILED TensorRT.trtexec [TensorRT v8603] # trtexec --onnx=m.onnx",
    ]  # fmt: skip
    assert reason(log) == (
        'ModelImporter.cpp:771: While parsing node number 3 [Resize -> "x"]:\nFailed to parse onnx file'
    )
    assert "FAILED" in reason(log[-1:])


@pytest.mark.parametrize(
    "name",
    ["mlperf_tiny/ad/ad01_int8.tflite", "mlperf_tiny/vww/vww_96_int8.tflite", "mlperf_tiny/kws/kws_ref_model.tflite"],
)
def test_integers_with_zero_points(name: str, data: Path, tmp_path: Path) -> None:
    """For ONNX Runtime's CPU kernels, which take them: from a file without names, too."""
    model = read(slim(read(data / "models" / name), tmp_path / "slim.tflite").path)
    export_graph(model.path, tmp_path / "model.onnx", opset=OPSET, symmetric=False)
    (spec,) = own_signature(model).inputs
    x = {spec.name: np.random.default_rng(0).integers(-128, 128, (8, *spec.shape[1:])).astype(np.int8)}
    (expected,) = LiteRtRunner(model.path, REFERENCE).run(x).values()
    (given,) = OnnxRunner(tmp_path / "model.onnx", 1, described(model)).run(x).values()
    assert given.dtype == expected.dtype
    assert np.abs(given.astype(int) - expected.astype(int)).max() <= 2
