"""Quantization-aware training: what becomes int8, and where the ranges of activations start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from running import left_in_cache, run_cli

from edgecompile.artifact import KERAS, Artifact, Signature, TensorInfo
from edgecompile.backends.litert import LiteRtRunner, reference_kernels
from edgecompile.errors import CompressionGateError, UnsupportedLayerError
from edgecompile.loaders.base import LoadOptions, save_keras
from edgecompile.metrics import accuracy
from edgecompile.quantization_aware import Settled, check_integer, load_quantization_aware, rewrite, settle
from edgecompile.quantization_aware.folding import fold_batchnorm
from edgecompile.quantization_aware.kinds import KERNEL, kind_of
from edgecompile.stages.base import Context, Outcome, Progress
from edgecompile.stages.convert import Convert, convert, keras_call, variables_of
from edgecompile.stages.prune import Prune
from edgecompile.stages.qat import Qat
from edgecompile.task import CLASSIFICATION, Split, Task
from edgecompile.tflite_file import read

RECIPE = """summary = "short"
[[steps]]
stage = "qat"
epochs = 1
learning_rate = 0.0001
[[steps]]
stage = "convert"
"""


def network(width: int, bias: bool, scale: bool, center: bool, seed: int) -> Any:
    """Dense, BatchNorm, ReLU, Dense, BatchNorm: statistics and weights drawn."""
    import tf_keras
    from tf_keras import layers

    inputs = x = layers.Input((3,), name="x")
    for name, activation in (("first", "relu"), ("second", "linear")):
        x = layers.Dense(width, use_bias=bias, name=name)(x)
        x = layers.BatchNormalization(scale=scale, center=center, name=f"{name}_bn")(x)
        x = layers.Activation(activation, name=f"{name}_out")(x) if activation == "relu" else x
    model = tf_keras.Model(inputs, x)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 2, w.shape) * (1 if "var" in v.name else rng.choice([-1, 1], w.shape))
                       for v, w in zip(model.weights, model.get_weights(), strict=True)])  # fmt: skip
    return model


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_folded_model_computes_the_same(width: int, bias: bool, scale: bool, center: bool, seed: int) -> None:
    whole = network(width, bias, scale, center, seed)
    folded, names = fold_batchnorm(whole)
    assert names == ["first_bn", "second_bn"]
    assert folded.output_names == whole.output_names
    assert not any("BatchNorm" in type(layer).__name__ for layer in folded.layers)
    x = np.random.default_rng(seed).normal(size=(16, 3)).astype(np.float32)
    np.testing.assert_allclose(folded(x), whole(x), rtol=1e-4, atol=1e-4)


def test_only_what_a_dense_layer_alone_feeds_is_folded() -> None:
    import tf_keras
    from tf_keras import layers

    inputs = layers.Input((3,))
    shared = layers.Dense(3, name="shared")(inputs)
    active = layers.Dense(3, "relu", name="active")(inputs)
    normed = [layers.BatchNormalization()(tensor) for tensor in (shared, active)]
    model = tf_keras.Model(inputs, layers.Add()([shared, *normed]))
    assert fold_batchnorm(model) == (model, [])


def test_a_dense_layer_that_is_an_output_too_stays_as_it_is() -> None:
    import tf_keras
    from tf_keras import layers

    inputs = layers.Input((3,))
    dense = layers.Dense(3, name="dense")(inputs)
    model = tf_keras.Model(inputs, [dense, layers.BatchNormalization()(dense)])
    assert fold_batchnorm(model) == (model, [])


def test_dense_layers_with_batchnorm_become_int8_and_ranges_start_where_the_data_is(tmp_path: Path) -> None:
    """Values in the hundreds: ranges that start at [-6, 6] would not reach them in an epoch."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    x = rng.uniform(-100, 100, (400, 4)).astype(np.float32)
    y = 3 * x[:, 0] + np.abs(x[:, 1])
    inputs = layers.Input((4,), name="x")
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Dense(32, name="hidden")(inputs)))
    model = tf_keras.Model(inputs, layers.Dense(1, name="y")(hidden))
    model.compile(tf_keras.optimizers.Adam(0.1), "mse")
    model.fit(x[:300], y[:300, None], 30, 60, verbose=0)
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    (tmp_path / "short.toml").write_text(RECIPE)
    options = ("--data", "d.npz", "--recipe", "short.toml", "--max-drop", "off", "--out", "out")
    done = run_cli("build", "m.keras", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    file = read(tmp_path / "out" / "model.tflite")
    kernels = [t for t in file.main.tensors if t.is_constant and len(t.shape) == 2]
    assert [t.dtype for t in kernels] == ["int8", "int8"]
    history = json.loads((tmp_path / "out" / "manifest.json").read_text())["history"]
    tested = next(record["metrics"] for record in history if record["stage"] == "test")
    assert tested["before"] < float(np.var(y)) / 100
    assert tested["value"] < float(np.var(y)) / 20
    assert any("folded into the layer before it" in note for record in history for note in record["notes"])


def test_weights_that_stayed_float_are_an_error(digits_bundle: Path, cache_folder: Path) -> None:
    float_file = read(left_in_cache(digits_bundle, cache_folder, "convert"))
    with pytest.raises(CompressionGateError, match=r"CONV_2D '.*conv.*' was trained for int8.*float32"):
        check_integer(float_file, [])
    check_integer(read(digits_bundle / "model.tflite"), [])


# ---- layers, through the stages


class Run:
    """Stages one after the other on 64 made-up samples of a model with one input and scores of 4 classes."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()
        shape = tuple(model.inputs[0].shape[1:])
        self.x = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
        self.task = Task("t", CLASSIFICATION, Split({"": self.x}, {"": np.arange(64) % 4}), None, accuracy, "t")
        ends = TensorInfo("x", (1, *shape), "float32"), TensorInfo("scores", (1, 4), "float32")
        source = save_keras(model, folder / "source.keras")
        self.artifact = Artifact(KERAS, {"model": source}, Signature(ends[:1], ends[1:]))
        self.ctx = self.context("source")

    def context(self, name: str) -> Context:
        def say(progress: Progress) -> None:
            self.said.append(progress.text)

        for kind in ("out", "work"):
            (self.folder / name / kind).mkdir(parents=True)
        where = self.folder / name
        return Context(where / "out", where / "work", self.task, "float", LoadOptions(), 0, None, None, say)

    def stage(self, stage: Any) -> Outcome:
        self.ctx = self.context(stage.name)
        outcome: Outcome = stage.run(self.artifact, self.ctx)
        self.artifact = Artifact(outcome.kind, outcome.files, outcome.signature, meta=outcome.meta)
        return outcome


def pictures(layers: Any, x: Any) -> Any:
    """Of the kinds that TF-MOT quantizes not at all, or not where they stand."""
    x = layers.SeparableConv2D(8, 3, padding="same", activation="swish", name="separable")(x)
    shared = layers.MaxPooling2D(name="shared")(x)
    x = layers.Concatenate()([layers.Conv2D(4, 1, name="a")(shared), layers.AveragePooling2D(3, 1, "same")(shared)])
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", use_bias=False, name="up")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(layers.BatchNormalization(name="up_bn")(x))
    gate = layers.Conv2D(3, 1, activation="swish", name="squeeze")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply(name="gated")([x, layers.Conv2D(6, 1, activation="sigmoid", name="excite")(gate)])
    x = layers.BatchNormalization(name="alone")(layers.Resizing(6, 6, name="resized")(x))
    twice = layers.Conv2D(6, 3, padding="same", activation="gelu", name="twice")
    x = layers.GroupNormalization(groups=2, name="groups")(twice(twice(x)))
    return layers.GlobalAveragePooling2D()(x)


def sequences(layers: Any, x: Any) -> Any:
    x = layers.Conv1D(8, 3, padding="causal", name="conv")(layers.Masking(name="masking")(x))
    x = layers.ReLU()(layers.BatchNormalization(name="conv_bn")(x))
    x = layers.SeparableConv1D(8, 3, activation="relu", name="separable")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8, name="attention")(x, x)])
    x = layers.TimeDistributed(layers.Dense(8, activation="gelu"), name="steps")(layers.LayerNormalization(name="n")(x))
    return layers.Dropout(0.1)(layers.LSTM(6, name="recurrent")(x))


def volumes(layers: Any, x: Any) -> Any:
    x = layers.Conv3D(4, 3, activation="relu", name="volume")(x)
    x = layers.Dense(8, activation="elu", name="dense")(layers.Flatten()(x))
    return layers.BatchNormalization(name="alone")(x)


FLOATS = {
    "pictures": {"groups": "GroupNormalization"},
    "sequences": {"masking": "Masking", "attention": "MultiHeadAttention", "n": "LayerNormalization",
                  "recurrent": "LSTM"},
    "volumes": {"volume": "Conv3D", "dense": "elu in Dense"},
}  # fmt: skip
PRUNED = {
    "pictures": {"separable", "a", "up", "squeeze", "excite", "twice", "scores"},
    "sequences": {"conv", "separable", "attention", "recurrent", "steps", "scores"},
    "volumes": {"volume", "dense", "scores"},
}


@pytest.mark.parametrize(("make", "shape"), [(pictures, (8, 8, 2)), (sequences, (10, 3)), (volumes, (4, 4, 4, 1))])
def test_what_can_be_is_int8_what_can_not_is_named_and_zeros_stay(make: Any, shape: Any, tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(0)
    inputs = layers.Input(shape, name="x")
    model = tf_keras.Model(inputs, layers.Dense(4, activation="softmax", name="scores")(make(layers, inputs)))
    run = Run(model, tmp_path)
    pruned = run.stage(Prune(epochs=1, batch_size=32))
    assert set(pruned.metrics["sparsity"]) == PRUNED[make.__name__]
    trained = run.stage(Qat(epochs=1, preserve_sparsity=True))
    floats = ", ".join(f"{name} ({what})" for name, what in FLOATS[make.__name__].items())
    assert trained.notes[0] == f"left in float (they can't be quantized): {floats}"
    twin = load_quantization_aware(run.artifact, run.context("again"))
    converted = run.stage(Convert())
    assert set(converted.metrics["kept"]) >= PRUNED[make.__name__] - {"volume"}
    assert all(kept["zeros"] >= 0.45 for kept in converted.metrics["kept"].values())
    file = read(converted.files["model"])
    received = LiteRtRunner(converted.files["model"], reference_kernels(file)).run({"x": run.x})["scores"]
    np.testing.assert_allclose(received, twin(run.x, training=False), atol=0.05)


def test_a_model_without_a_layer_that_can_be_quantized_is_refused_before_training(tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    inputs = layers.Input((5, 5, 5, 1), name="x")
    scores = layers.GlobalAveragePooling3D(name="scores")(layers.Conv3D(4, 3, name="volume")(inputs))
    run = Run(tf_keras.Model(inputs, scores), tmp_path)
    with pytest.raises(UnsupportedLayerError, match=r"can't quantize any layer.*volume \(Conv3D\)") as caught:
        run.stage(Qat())
    assert "int8" in str(caught.value.hint)
    assert not any("epoch" in text for text in run.said)


def test_frozen_layers_stay_frozen(tmp_path: Path) -> None:
    import tf_keras
    from tf_keras import layers

    inputs = layers.Input((3,), name="x")
    x = layers.Dense(8, "relu", name="frozen", trainable=False)(inputs)
    model = tf_keras.Model(inputs, layers.Dense(4, name="scores")(x))
    run = Run(model, tmp_path)
    run.stage(Qat(epochs=1))
    twin = load_quantization_aware(run.artifact, run.ctx)
    kernels = {layer.layer.name: layer._weight_vars[0][0].numpy() for layer in twin.layers if hasattr(layer, "layer")}
    np.testing.assert_array_equal(kernels["frozen"], model.get_layer("frozen").kernel)
    assert np.all(kernels["scores"] != model.get_layer("scores").kernel)


# ---- any graph


def settled(model: Any, folder: Path) -> Settled:
    """The untrained twin of a graph of `graphs`, which has to compute what the model does in its .tflite too."""
    x = graphs.samples(model)
    base, _ = rewrite(model, [x])
    ends = TensorInfo("x", (1, *x.shape[1:]), "float32"), TensorInfo("scores", (1, 4), "float32")
    signature = Signature(ends[:1], ends[1:])

    def to_tflite(twin: Any) -> bytes:
        return convert(keras_call(twin), variables_of(twin), signature, int8_io=False)

    made = settle(base, {}, [[x]], to_tflite, folder / "untrained.tflite")
    check_integer(made.file, made.may_be_float)
    received = LiteRtRunner(made.file.path, reference_kernels(made.file)).run({"x": x})["scores"]
    expected = model(x, training=False).numpy()
    assert np.abs(received - expected).max() < 0.25 * max(np.ptp(expected), 0.05), made.floats
    kernels = {layer.name for layer in base.layers if kind_of(layer) == KERNEL}
    assert kernels <= set(made.twin.kernels) | set(made.floats)
    return made


def any_graph_settles(data: st.DataObject, folder: Path) -> None:
    import tensorflow as tf
    import tf_keras

    tf_keras.backend.clear_session()
    # TensorFlow 2.21 fuses a convolution without bias, BatchNorm and tanh, and has no kernel for that.
    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        settled(graphs.random_graph(data.draw, tf_keras), folder)
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": True})


@settings(
    max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.data())
def test_any_graph_is_quantized_or_says_what_is_not(tmp_path: Path, data: st.DataObject) -> None:
    any_graph_settles(data, tmp_path)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_graphs_are_quantized_or_say_what_is_not(tmp_path: Path, data: st.DataObject) -> None:
    any_graph_settles(data, tmp_path)
