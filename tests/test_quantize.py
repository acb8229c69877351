"""The quantize stage on a small trained network: every scheme's dtypes, overrides of a recipe, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import tflite_file
from edgecompile.artifact import TFLITE, Artifact
from edgecompile.backends.litert import BUILTIN, REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.compare import snr_db
from edgecompile.errors import CompressionGateError, ConversionError, RecipeError
from edgecompile.loaders.base import LoadOptions
from edgecompile.quantization import FLOAT, SCHEMES, FloatModel, Override, deviations
from edgecompile.recipe import load_recipe, read_recipe, recipe_names
from edgecompile.stages.base import Context
from edgecompile.stages.quantize import Quantize
from edgecompile.task import Task

INT8, INT16 = "static_wi8_ai8", "static_wi8_ai16"


@pytest.fixture(scope="module")
def digits() -> Task:
    from edgecompile.models import digits as model

    return model.task()


@pytest.fixture(scope="module")
def source(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The digits network, trained for a few epochs, as a float .tflite."""
    import tensorflow as tf
    import tf_keras

    from edgecompile.models import digits as model

    tf_keras.utils.set_random_seed(0)
    network = model.build()
    network.compile(tf_keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    assert digits.train is not None
    assert digits.train.y is not None
    network.fit(digits.train.x[""], digits.train.y[""], batch_size=32, epochs=6, verbose=0)
    serve = tf.function(lambda x: {"scores": network(x, training=False)})
    concrete = serve.get_concrete_function(tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image"))
    path = tmp_path_factory.mktemp("float") / "model.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], network).convert())
    return artifact(path)


def artifact(path: Path) -> Artifact:
    return Artifact(TFLITE, {"model": path}, tflite_file.read(path).signature, (), {})


@pytest.fixture
def run(digits: Task, source: Artifact, tmp_path: Path) -> Callable[..., Any]:
    """`run(stage, io="float", model=...) -> Outcome`, on the float digits model or another."""

    def call(stage: Quantize, io: str = "float", model: Artifact = source) -> Any:
        ctx = Context(tmp_path, tmp_path, digits, io, LoadOptions(), 0, None, None, lambda _: None)
        return stage.run(model, ctx)

    return call


def states(path: Path) -> dict[str, tuple[str | None, str]]:
    """{operator with its place among its kind: (dtype of its weights, dtype of its result)}, casts looked through."""
    graph = tflite_file.read(path).main
    casts = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name == "DEQUANTIZE"}
    found: dict[str, tuple[str | None, str]] = {}
    for op in graph.operators:
        if op.name in ("QUANTIZE", "DEQUANTIZE"):
            continue
        weights = None
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[casts.get(op.inputs[1], op.inputs[1])]
            weights = tensor.dtype
        count = sum(name.startswith(f"{op.name} ") for name in found)
        found[f"{op.name} {count}"] = (weights, graph.tensors[op.outputs[0]].dtype)
    return found


def outputs(path: Path, digits: Task, kernels: str = XNNPACK) -> np.ndarray:
    assert digits.test is not None
    return LiteRtRunner(path, kernels).run_real({"image": digits.test.x[""][:100]})["scores"]


@pytest.mark.parametrize(
    ("scheme", "weights", "depthwise", "results", "agree"),
    [
        ("float16", "float16", "float16", "float32", 1.0),
        ("dynamic_wi8_afp32", "int8", "int8", "float32", 0.98),
        ("dynamic_wi4_afp32", "int4", "float32", "float32", 0.6),
        ("weight_only_wi8_afp32", "int8", "int8", "float32", 0.98),
        ("weight_only_wi4_afp32", "int4", "float32", "float32", 0.6),
        (INT8, "int8", "int8", "int8", 0.98),
        (INT16, "int8", "int8", "int16", 0.98),
    ],
)
def test_scheme_gives_the_types_it_names(
    run: Callable[..., Any],
    source: Artifact,
    digits: Task,
    scheme: str,
    weights: str,
    depthwise: str,
    results: str,
    agree: float,
) -> None:
    outcome = run(Quantize(scheme, samples=100))
    path = outcome.files["model"]
    found = states(path)
    assert len(found) == 8
    for name, state in found.items():
        expected = None if name.split()[0] in ("ADD", "MEAN", "SOFTMAX") else weights
        assert state == (depthwise if name.startswith("DEPTHWISE") else expected, results), name
    assert bool(outcome.notes) == (depthwise == "float32")
    expected = outputs(source.model, digits).argmax(1)
    for kernels in (XNNPACK, BUILTIN):
        assert np.mean(outputs(path, digits, kernels).argmax(1) == expected) >= agree, kernels


def test_blocks_of_weights_have_their_own_scales(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Weights whose range differs from block to block survive int4 by blocks, and not by channels: nearly as well as
    the same rounding by hand, with XNNPACK and the optimized kernels."""
    import tensorflow as tf
    import tf_keras

    rng = np.random.default_rng(0)
    ranges = np.repeat([1.0, 1 / 16, 1.0, 1 / 16], 32)
    weights = rng.normal(size=(16, 128)) * ranges
    x = (rng.normal(size=(50, 128)) / np.sqrt(ranges)).astype(np.float32)
    image = tf_keras.Input((128,), name="x")
    dense = tf_keras.Model(image, tf_keras.layers.Dense(16, use_bias=False, name="dense")(image))
    dense.set_weights([weights.T])
    serve = tf.function(lambda x: {"y": dense(x)})
    concrete = serve.get_concrete_function(tf.TensorSpec((1, 128), tf.float32, name="x"))
    path = tmp_path / "dense.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], dense).convert())

    def snr(scheme: str, kernels: str) -> float:
        made = run(Quantize(scheme), model=artifact(path)).files["model"]
        return snr_db(LiteRtRunner(made, kernels).run_real({"x": x})["y"], x @ weights.T)

    blocks = weights.reshape(16, 4, 32)
    scales = np.abs(blocks).max(-1, keepdims=True) / 7
    by_hand = snr_db(x @ (np.round(blocks / scales) * scales).reshape(weights.shape).T, x @ weights.T)
    for kernels in (XNNPACK, BUILTIN):
        assert snr("dynamic_wi4_afp32", kernels) < by_hand - 6
        assert snr("dynamic_wi4b32_afp32", kernels) > by_hand - 2


@pytest.mark.parametrize(
    ("ops", "scheme", "changed"),
    [
        ("SOFTMAX", FLOAT, {"SOFTMAX 0": (None, "float32")}),
        ("CONV_2D", INT16, {f"CONV_2D {i}": ("int8", "int16") for i in range(3)}),
        ("residual/|residual_bn", FLOAT, {"CONV_2D 2": ("float32", "float32")}),
        ("scores/MatMul", "dynamic_wi4_afp32", {"FULLY_CONNECTED 0": ("int4", "float32")}),
        ("pool", INT16, {"MEAN 0": (None, "int16")}),
        ("FULLY_CONNECTED", "float16", {"FULLY_CONNECTED 0": ("float16", "float32")}),
    ],
)
@pytest.mark.parametrize("io", ["float", "int8"])
def test_override_changes_what_it_matches_alone(
    run: Callable[..., Any], digits: Task, ops: str, scheme: str, changed: dict[str, Any], io: str
) -> None:
    plain = states(run(Quantize(INT8, samples=50), io).files["model"])
    outcome = run(Quantize(INT8, samples=50, overrides=(Override(ops, scheme),)), io)
    assert states(outcome.files["model"]) == plain | changed
    assert outcome.signature.inputs[0].dtype == outcome.signature.outputs[0].dtype == {"float": "float32"}.get(io, io)
    assert np.isfinite(outputs(outcome.files["model"], digits)).all()


def test_later_override_wins_and_recipe_files_hold_them(tmp_path: Path, run: Callable[..., Any]) -> None:
    lines = ['[[steps]]\nstage = "quantize"', f'scheme = "{INT8}"\nsamples = 50']
    lines += [
        f'[[steps.overrides]]\nops = "{ops}"\nscheme = "{s}"' for ops, s in (("CONV_2D", INT16), ("conv/", FLOAT))
    ]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    (stage,) = read_recipe(tmp_path / "mine.toml").steps
    assert isinstance(stage, Quantize)
    assert stage.overrides == (Override("CONV_2D", INT16), Override("conv/", FLOAT))
    found = states(run(stage).files["model"])
    assert [found[f"CONV_2D {i}"][1] for i in range(3)] == ["float32", "int16", "int16"]


def test_calibrates_where_an_override_alone_is_static(run: Callable[..., Any]) -> None:
    stage = Quantize("dynamic_wi8_afp32", samples=50, overrides=(Override("FULLY_CONNECTED", INT8),))
    assert (stage.needs, stage.static) == ("representative", False)
    assert states(run(stage).files["model"])["FULLY_CONNECTED 0"] == ("int8", "int8")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((("CONV2D", FLOAT),), "no operator matches 'CONV2D'"),
        ((("no/such/tensor", FLOAT),), "no operator matches"),
        ((("SOFTMAX", "dynamic_wi8_afp32"),), "can't give it to SOFTMAX"),
        ((("DEPTHWISE_CONV_2D", "dynamic_wi4_afp32"),), "can't give it to DEPTHWISE_CONV_2D"),
        ((("scores", "dynamic_wi4b64_afp32"),), "can't give it to FULLY_CONNECTED"),
    ],
)
def test_overrides_that_can_t_be_had(run: Callable[..., Any], overrides: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run(Quantize(INT8, samples=20, overrides=tuple(Override(*o) for o in overrides)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('ops = "A("\nscheme = "float"', "no regular expression"),
        ('ops = ""\nscheme = "float"', "ops is empty"),
        ('ops = "ADD"\nscheme = "int8"', "unknown scheme 'int8'"),
        ('ops = "ADD"', "overrides 1: key 'scheme' is missing"),
        ('ops = 3\nscheme = "float"', "overrides 1: ops: expected str"),
        ('op = "ADD"\nscheme = "float"', "unknown key 'op'"),
    ],
)
def test_faulty_override_in_a_recipe_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'[[steps]]\nstage = "quantize"\nscheme = "{INT8}"\n[[steps.overrides]]\n{text}\n')
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_part_of_what_an_override_matches_is_named_or_refused(run: Callable[..., Any]) -> None:
    stage = Quantize("dynamic_wi8_afp32", overrides=(Override(".", "dynamic_wi4_afp32"),))
    outcome = run(stage)
    assert outcome.notes == ("overrides that can't be had: DEPTHWISE_CONV_2D #1 (dynamic_wi4_afp32)",)
    assert states(outcome.files["model"])["DEPTHWISE_CONV_2D 0"] == ("int8", "float32")
    with pytest.raises(CompressionGateError, match="DEPTHWISE_CONV_2D #1"):
        run(dataclasses.replace(stage, float_ops="refuse"))
    with pytest.raises(CompressionGateError, match=r"left in float.*DEPTHWISE_CONV_2D #1"):
        run(Quantize("dynamic_wi4_afp32", float_ops="refuse"))


def test_what_an_operator_became_is_compared_with_what_was_asked(
    source: Artifact, tmp_path: Path, digits: Task
) -> None:
    """A file that is int8 where int16 was asked is found out, operator by operator."""
    stage = Quantize(INT8, samples=20)
    ctx = Context(tmp_path, tmp_path, digits, "float", LoadOptions(), 0, None, None, lambda _: None)
    result = tflite_file.read(stage.run(source, ctx).files["model"])
    model = FloatModel(source.model)
    assert deviations(model.file, result, dict.fromkeys(model.places, INT8)) == []
    for scheme in (s for s in SCHEMES if s != INT8):
        wrong = deviations(model.file, result, dict.fromkeys(model.places, scheme))
        assert {d.found for d in wrong} == {"int8 weights, int8 results"} | (
            {"int8 results"} if scheme == INT16 else set()
        )
        assert len(wrong) == (8 if scheme == INT16 else 5)
    assert len(deviations(model.file, result, dict.fromkeys(model.places, FLOAT))) == 8


def test_refused_by_the_quantizer_is_an_error_of_ours(run: Callable[..., Any]) -> None:
    with pytest.raises(ConversionError, match="not divisible"):
        run(Quantize("dynamic_wi4b64_afp32"))


def test_built_in_recipes_are_read(source: Artifact) -> None:
    del source
    names = {"int8-weights", "int4", "int4-blockwise", "int16x8", "mixed-precision", "mixed-precision-int16"}
    assert names <= set(recipe_names())
    assert {load_recipe(name).needs for name in ("int8-weights", "int4", "int4-blockwise")} == {"nothing"}


@pytest.mark.parametrize("scheme", [INT8, INT16])
def test_a_channel_without_weights_keeps_its_bias(tmp_path: Path, digits: Task, scheme: str) -> None:
    """Beside weights so small the bias was lost: cut off to the most negative number, or multiplied by zero."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 1, 6)).astype(np.float32)
    kernel[..., 1], kernel[..., 2], kernel[..., 3] = 0, 1e-12 * kernel[..., 2], 1e-9 * kernel[..., 3]
    bias = np.array([0.5, 3, 2, -1, 0, 1], np.float32)

    def network(x: Any) -> Any:
        return {"scores": tf.nn.conv2d(x, tf.constant(kernel), 1, "SAME") + tf.constant(bias)}

    concrete = tf.function(network).get_concrete_function(tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image"))
    path = tmp_path / "float.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert())
    model = artifact(path)
    ctx = Context(tmp_path, tmp_path, digits, "float", LoadOptions(), 0, None, None, lambda _: None)
    outcome = Quantize(scheme).run(model, ctx)
    expected = outputs(path, digits)
    for kernels in (XNNPACK, BUILTIN):
        received = outputs(outcome.files["model"], digits, kernels)
        step = (expected.max() - expected.min()) / 255
        assert np.abs(received - expected).max(axis=(0, 1, 2)).max() < 3 * step


def test_logits_that_hardly_differ_get_a_scale_that_softmax_takes(run: Callable[..., Any], tmp_path: Path) -> None:
    """Below 2**-26 LiteRT's reference kernels end the process: the mean of what has its mean taken off is rounding."""
    import tensorflow as tf

    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 4)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
    def serve(image: Any) -> dict[str, Any]:
        x = image * tf.constant([0.3, -0.2, 0.7])
        x = tf.reduce_mean(x - tf.reduce_mean(x, axis=(1, 2), keepdims=True), axis=(1, 2))
        return {"scores": tf.nn.softmax(x @ kernel)}

    path = tmp_path / "model.tflite"
    concrete = serve.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert())
    made = run(Quantize(INT8), model=artifact(path)).files["model"]
    graph = tflite_file.read(made).main
    (softmax,) = [op for op in graph.operators if op.name == "SOFTMAX"]
    quantization = graph.tensors[softmax.inputs[0]].quantization
    assert quantization is not None
    assert quantization.scales[0] > 2.0**-26
    scores = LiteRtRunner(made, REFERENCE).run_real({"image": np.ones((1, 8, 8, 1), np.float32)})["scores"]
    np.testing.assert_allclose(scores, 0.25, atol=0.02)
