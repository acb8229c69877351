"""The layer-wise error report: what is matched with what, what the numbers are, and where models part."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import left_in_cache

from edgecompile import compare as verdicts
from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.errors import DataError, ModelError
from edgecompile.layerwise import compare, layer_errors
from edgecompile.layerwise.distance import Distance
from edgecompile.layerwise.graph import graph_of
from edgecompile.layerwise.match import layer_name, match
from edgecompile.layerwise.report import Comparison
from edgecompile.tflite_file import read

RESNET = "models/mlperf_tiny/ic/pretrainedResnet.tflite"
RESNET_INT8 = "models/mlperf_tiny/ic/pretrainedResnet_quant.tflite"
TEXT = "models/text/sst2_transformer_fp32.tflite"

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def digits_float(digits_bundle: Path, cache_folder: Path) -> Path:
    """As converted: inner tensors have their names still."""
    return left_in_cache(digits_bundle, cache_folder, "convert")


@pytest.fixture(scope="module")
def digits_int8(digits_bundle: Path, cache_folder: Path) -> Path:
    return left_in_cache(digits_bundle, cache_folder, "quantize")


@pytest.fixture(scope="module")
def images() -> Arrays:
    from sklearn.datasets import load_digits

    return {"image": (load_digits().images[:16, ..., None] / 16).astype(np.float32)}


def rewrite(source: Path, path: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a .tflite with its tables changed."""
    packed = schema.ModelT.InitFromPackedBuf(source.read_bytes())
    change(packed)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(packed.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def change_weights(layer: str, change: Callable[[npt.NDArray[Any]], None]) -> Callable[[Any], None]:
    """Change the weights that the operator of a layer reads."""

    def changed(packed: Any) -> None:
        graph = packed.subgraphs[0]
        (op,) = (op for op in graph.operators if layer_name(graph.tensors[op.outputs[0]].name.decode()) == layer)
        tensor = graph.tensors[op.inputs[1]]
        dtype = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT8: np.int8}[tensor.type]
        values = np.frombuffer(packed.buffers[tensor.buffer].data.tobytes(), dtype).copy()
        change(values)
        packed.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)

    return changed


def without_names(packed: Any) -> None:
    for tensor in packed.subgraphs[0].tensors:
        tensor.name = b""


def names(found: Comparison) -> list[str]:
    return [layer_name(row.tensor) for row in found.rows]


LAYERS = [
    "conv_relu/Relu",
    "depthwise_relu/Relu",
    "pointwise_relu/Relu",
    "residual_bn/FusedBatchNormV3",
    "residual_relu/Relu",
    "pool/Mean",
    "scores/MatMul",
]
WITH_WEIGHTS = [*LAYERS[:4], LAYERS[-1]]


def test_float_against_int8_has_a_row_for_each_tensor(digits_float: Path, digits_int8: Path, images: Arrays) -> None:
    found = compare(digits_float, digits_int8, images)
    assert not found.parted
    assert (found.only_a, found.only_b, found.samples) == ((), (), 16)
    assert [row.op for row in found.rows] == [
        "INPUT", "QUANTIZE", "CONV_2D+RELU", "DEPTHWISE_CONV_2D+RELU", "CONV_2D+RELU", "CONV_2D", "ADD+RELU", "MEAN",
        "FULLY_CONNECTED", "SOFTMAX",
    ]  # fmt: skip
    assert names(found)[2:-1] == LAYERS
    assert all(25 < row.snr_db < 60 for row in found.rows[1:])
    assert all((row.dtype, row.dtype_b) == ("float32", "int8") for row in found.rows[1:])
    quantized = found.rows[1]
    assert quantized.lsb is not None
    assert quantized.lsb <= 0.5 + 1e-5  # rounding to the nearest
    assert all(row.fall_db is not None for row in found.rows[1:])
    assert quantized.fall_db == pytest.approx(6.02 * 8 + 1.76 - quantized.snr_db)  # the input itself is exact


def test_the_output_row_is_what_the_outputs_say(digits_float: Path, digits_int8: Path, images: Arrays) -> None:
    last = layer_errors(digits_float, digits_int8, images)[-1]
    (a,), (b,) = (LiteRtRunner(path, REFERENCE).run(images).values() for path in (digits_float, digits_int8))
    assert last.snr_db == pytest.approx(verdicts.snr_db(b, a))
    assert last.cosine == pytest.approx(verdicts.cosine(b, a))
    assert last.max_abs == pytest.approx(np.abs(b - a).max())
    assert last.scale_b is not None
    assert last.lsb == pytest.approx(last.max_abs / last.scale_b)
    json.dumps(last.to_json(), allow_nan=False)


@pytest.mark.parametrize("layer", WITH_WEIGHTS)
def test_one_changed_weight_is_found_at_its_layer(
    digits_float: Path, digits_int8: Path, images: Arrays, tmp_path: Path, layer: str
) -> None:
    def add(values: npt.NDArray[Any]) -> None:
        values[len(values) // 2] += 0.5

    def flip(values: npt.NDArray[Any]) -> None:
        values.view(np.uint8)[len(values) // 2] ^= 0x80

    for source, change in ((digits_float, add), (digits_int8, flip)):
        broken = rewrite(source, tmp_path / "broken.tflite", change_weights(layer, change))
        found = compare(source, broken, images)
        assert found.parted
        assert found.first is not None
        assert layer_name(found.first.tensor) == layer
        assert found.first is found.steepest
        # Nothing of it is explained by a number format: both models have the same.
        assert found.first.fall_db == pytest.approx(6.02 * 24 + 1.76 - found.first.snr_db)
        assert [layer_name(row.tensor) for row in found.rows if row.origin] == [layer]
        before = found.rows[: found.rows.index(found.first)]
        assert all(row.max_abs == 0 for row in before)


def test_a_broken_layer_shows_through_quantization(
    digits_float: Path, digits_int8: Path, images: Arrays, tmp_path: Path
) -> None:
    def scramble(values: npt.NDArray[Any]) -> None:
        values[...] = values[::-1].copy()

    broken = rewrite(digits_int8, tmp_path / "broken.tflite", change_weights("pointwise_relu/Relu", scramble))
    found = compare(digits_float, broken, images)
    assert found.limit.snr_db == 10
    assert found.first is not None
    assert layer_name(found.first.tensor) == "pointwise_relu/Relu"
    assert found.first is found.steepest
    assert found.first.fall_db is not None
    assert found.first.fall_db > 25


def test_not_a_number_is_found_where_it_begins(digits_float: Path, images: Arrays, tmp_path: Path) -> None:
    def poison(values: npt.NDArray[Any]) -> None:
        values[0] = np.nan

    path = rewrite(digits_float, tmp_path / "nan.tflite", change_weights("residual_bn/FusedBatchNormV3", poison))
    first = compare(digits_float, path, images).first
    assert first is not None
    assert (layer_name(first.tensor), first.nonfinite > 0) == ("residual_bn/FusedBatchNormV3", True)
    assert compare(path, path, images).first is None  # the same in both
    json.dumps([row.to_json() for row in compare(digits_float, path, images).rows], allow_nan=False)


def test_the_tolerance_is_a_share_of_the_range(digits_float: Path, digits_int8: Path, images: Arrays) -> None:
    int8 = digits_int8
    worst = max(row.relative for row in layer_errors(digits_float, int8, images))
    assert not compare(digits_float, int8, images, tolerance=worst * 1.01).parted
    assert compare(digits_float, int8, images, tolerance=worst * 0.99).parted


def test_an_activation_may_be_fused_or_not(digits_float: Path, images: Arrays, tmp_path: Path) -> None:
    def split(packed: Any) -> None:
        """The first convolution's RELU as an operator of its own."""
        graph = packed.subgraphs[0]
        conv = graph.operators[0]
        conv.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
        tensor = schema.TensorT()
        after = graph.tensors[conv.outputs[0]]
        tensor.name, tensor.shape, tensor.type, tensor.buffer = b"before", after.shape, after.type, 0
        graph.tensors.append(tensor)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
        code.version = 1
        packed.operatorCodes.append(code)
        relu = schema.OperatorT()
        relu.opcodeIndex, relu.inputs, relu.outputs = (
            len(packed.operatorCodes) - 1, np.array([len(graph.tensors) - 1], np.int32), conv.outputs,
        )  # fmt: skip
        conv.outputs = relu.inputs
        graph.operators.insert(1, relu)

    found = compare(digits_float, rewrite(digits_float, tmp_path / "split.tflite", split), images)
    assert not found.parted
    assert (found.only_a, found.only_b) == ((), ())
    assert all(row.max_abs == 0 for row in found.rows)


@pytest.mark.parametrize("scheme", ["dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai16"])
def test_other_schemes_are_matched_and_compared_by_snr(
    digits_float: Path, images: Arrays, tmp_path: Path, scheme: str
) -> None:
    from ai_edge_quantizer import quantizer, recipe

    engine = quantizer.Quantizer(str(digits_float))
    engine.load_quantization_recipe(getattr(recipe, scheme)())
    ranges = None
    if engine.need_calibration:
        ranges = engine.calibrate({"serving_default": [{"image": x[None]} for x in images["image"]]})
    path = tmp_path / "quantized.tflite"
    engine.quantize(ranges).export_model(str(path))
    found = compare(digits_float, path, images)
    assert found.limit.snr_db is not None
    assert (found.parted, found.only_a, found.only_b) == (False, (), ())
    assert [name for name in names(found) if name in LAYERS] == LAYERS
    scores = next(row for row in found.rows if layer_name(row.tensor) == "scores/MatMul")
    assert 15 < scores.snr_db < 90


def shuffle(rng: random.Random) -> Callable[[Any], None]:
    """Operators in another order in which each still follows those it reads."""

    def change(packed: Any) -> None:
        graph = packed.subgraphs[0]
        made = {index for op in graph.operators for index in op.outputs}
        left, order = list(graph.operators), []
        while left:
            chosen = rng.choice([op for op in left if not made & set(op.inputs)])
            left = [op for op in left if op is not chosen]
            made -= set(chosen.outputs)
            order.append(chosen)
        graph.operators = order

    return change


def assert_matches_itself(model: Path, changed: Path) -> None:
    """Tensors keep their indices in these copies, so the right counterpart is known."""
    a, b = graph_of(read(model)), graph_of(read(changed))
    found = match(a, b, list(zip(a.inputs, b.inputs, strict=True)), list(zip(a.outputs, b.outputs, strict=True)))
    assert (found.only_a, found.only_b) == ((), ())
    assert [(i, j) for i, j in found.pairs if a.nodes[i].outputs != b.nodes[j].outputs] == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_order_of_operators_is_matched(data: Path, tmp_path: Path, seed: int) -> None:
    """The transformer by its names: nothing else tells its key, query and value projections apart. ResNet8 by the
    paths from its input, without any names."""
    changed = tmp_path / "changed.tflite"
    assert_matches_itself(data / TEXT, rewrite(data / TEXT, changed, shuffle(random.Random(seed))))
    for name in (RESNET, RESNET_INT8):
        rewrite(data / name, changed, without_names)
        assert_matches_itself(data / name, rewrite(changed, changed, shuffle(random.Random(seed))))


def test_without_names_and_paths_the_order_decides(data: Path, tmp_path: Path) -> None:
    assert_matches_itself(data / TEXT, rewrite(data / TEXT, tmp_path / "nameless.tflite", without_names))


def convnet(path: Path, channels: int, *, batch: int = 1, extra: bool = False) -> Path:
    """A small convolutional network, converted; `channels` of its first layer."""
    import tf_keras
    from tf_keras import layers

    from edgecompile.artifact import Signature, TensorInfo
    from edgecompile.stages.convert import convert, keras_call, variables_of

    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(channels, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="second")(x)
    if extra:
        x = layers.MaxPooling2D(1, name="extra")(layers.Conv2D(4, 3, padding="same", name="more")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = tf_keras.Model(image, layers.Dense(3, name="scores")(x), name="net")
    shape = TensorInfo("image", (batch, 8, 8, 3), "float32"), TensorInfo("scores", (batch, 3), "float32")
    path.write_bytes(convert(keras_call(model), variables_of(model), Signature((shape[0],), (shape[1],))))
    return path


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    return {
        "net": convnet(folder / "net.tflite", 8),
        "pruned": convnet(folder / "pruned.tflite", 6),
        "longer": convnet(folder / "longer.tflite", 8, extra=True),
        "batch": convnet(folder / "batch.tflite", 8, batch=4),
    }


@pytest.fixture(scope="module")
def noise() -> Arrays:
    return {"image": np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)}


def test_pruned_channels_are_named_with_their_shapes(nets: dict[str, Path], noise: Arrays) -> None:
    found = compare(nets["net"], nets["pruned"], noise)
    (alone,) = found.only_a
    assert layer_name(alone.tensor) == "first/Relu"
    assert alone.reason == "its namesake has the shape [1, 8, 8, 6]"
    assert [layer_name(each.tensor) for each in found.only_b] == ["first/Relu"]
    assert found.first is not None
    assert layer_name(found.first.tensor) == "second/Relu"
    assert found.first.fall_db is not None  # from the input, through what has no counterpart


def test_layers_that_only_one_model_has_are_named(nets: dict[str, Path], noise: Arrays, tmp_path: Path) -> None:
    found = compare(nets["net"], nets["longer"], noise)
    assert found.only_a == ()
    assert any("more" in each.tensor for each in found.only_b)
    assert names(found)[1:3] == ["first/Relu", "second/Relu"]
    # Without names, what follows them has no matched inputs: its place says what it is.
    nameless = compare(nets["net"], rewrite(nets["longer"], tmp_path / "nameless.tflite", without_names), noise)
    assert nameless.only_a == ()
    assert [each.op for each in nameless.only_b] == [each.op for each in found.only_b]
    swapped = compare(nets["longer"], nets["net"], noise)
    assert [each.op for each in swapped.only_a] == [each.op for each in found.only_b]


def test_a_larger_batch_is_filled_up(nets: dict[str, Path], noise: Arrays) -> None:
    found = compare(nets["batch"], nets["batch"], noise)
    assert (found.samples, found.parted) == (6, False)
    with pytest.raises(ModelError, match="no batch size in common"):
        compare(nets["net"], nets["batch"], noise)


def test_what_cannot_be_compared_is_a_clear_error(
    nets: dict[str, Path], digits_float: Path, images: Arrays, noise: Arrays, tmp_path: Path
) -> None:
    net = nets["net"]
    with pytest.raises(ModelError, match=r"different inputs: A 'image' \[8, 8, 3\], B 'image' \[8, 8, 1\]"):
        compare(net, digits_float, noise)
    with pytest.raises(DataError, match=r"takes samples of shape \[8, 8, 3\], received \[8, 8, 1\]"):
        compare(net, net, images)
    with pytest.raises(DataError, match="received"):
        compare(net, net, {"picture": noise["image"]})
    with pytest.raises(DataError, match="received"):
        compare(net, net, {"image": noise["image"][:0]})
    with pytest.raises(ModelError, match="no such file"):
        compare(net, tmp_path / "missing.tflite", noise)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
)
def test_distances_added_up_are_those_of_all_at_once(seed: int, cuts: list[int], scale: float) -> None:
    rng = np.random.default_rng(seed)
    a = (rng.normal(size=60) * scale).astype(np.float32)
    b = (a + rng.normal(size=60) * scale * 0.1).astype(np.float32)
    found = Distance()
    for x, y in zip(np.split(a, sorted(cuts)), np.split(b, sorted(cuts)), strict=True):
        found.add(x, y)
    expected = verdicts.snr_db(b, a)
    assert found.snr_db == (pytest.approx(expected, abs=1e-6) if math.isfinite(expected) else expected)
    assert found.cosine == pytest.approx(verdicts.cosine(b, a), abs=1e-9)
    assert found.max_abs == np.abs(b.astype(np.float64) - a).max()
    span = max(a.max(), 0) - min(a.min(), 0)
    assert found.relative == pytest.approx(found.max_abs / (span or 1))
