"""Quantization-aware training: what becomes int8, and where the ranges of activations start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import left_in_cache, run_cli

from edgecompile.errors import CompressionGateError
from edgecompile.folding import fold_dense_batchnorm
from edgecompile.stages.convert import check_integer
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
    folded, names = fold_dense_batchnorm(whole)
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
    assert fold_dense_batchnorm(model) == (model, [])


def test_a_dense_layer_that_is_an_output_too_stays_as_it_is() -> None:
    import tf_keras
    from tf_keras import layers

    inputs = layers.Input((3,))
    dense = layers.Dense(3, name="dense")(inputs)
    model = tf_keras.Model(inputs, [dense, layers.BatchNormalization()(dense)])
    assert fold_dense_batchnorm(model) == (model, [])


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
    assert any("folded into the Dense layer" in note for record in history for note in record["notes"])


def test_weights_that_stayed_float_are_an_error(digits_bundle: Path, cache_folder: Path) -> None:
    float_file = read(left_in_cache(digits_bundle, cache_folder, "convert"))
    with pytest.raises(CompressionGateError, match=r"CONV_2D '.*conv.*' was trained for int8.*float32"):
        check_integer(float_file, [])
    check_integer(read(digits_bundle / "model.tflite"), [])
