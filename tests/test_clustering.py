"""Clustering, and quantization-aware training that keeps zeros and clusters down to the int8 weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile import promises
from edgecompile.errors import CompressionGateError, UnsupportedLayerError
from edgecompile.stages.cluster import Cluster
from edgecompile.tflite_file import read
from edgecompile.ties import Ties

RECIPE = """summary = "short"
{prune}
[[steps]]
stage = "cluster"
clusters = 8
per_channel = {per_channel}
depthwise = "cluster"
preserve_sparsity = {sparse}
epochs = 1
[[steps]]
stage = "qat"
preserve_clusters = true
preserve_sparsity = {sparse}
freeze_batchnorm = 0.5
epochs = 2
[[steps]]
stage = "convert"
"""
PRUNE = """[[steps]]
stage = "prune"
epochs = 2
"""


@pytest.mark.parametrize("per_channel", [False, True], ids=["kernel", "channel"])
@pytest.mark.parametrize("sparse", [False, True], ids=["cqat", "pcqat"])
def test_clusters_and_zeros_are_in_the_int8_weights(tmp_path: Path, per_channel: bool, sparse: bool) -> None:
    words = {True: "true", False: "false"}
    text = RECIPE.format(prune=PRUNE if sparse else "", per_channel=words[per_channel], sparse=words[sparse])
    (tmp_path / "short.toml").write_text(text)
    done = run_cli("build", "digits", "--recipe", "short.toml", "--max-drop", "off", "--out", "b", cwd=tmp_path)
    assert done.code == 0, done.err
    model = read(tmp_path / "b" / "model.tflite")
    kernels = [t for t in model.main.tensors if t.is_constant and t.dtype == "int8" and len(t.shape) > 1]
    assert len(kernels) == 5
    for kernel in kernels:
        weights = model.data(kernel)
        assert kernel.quantization is not None
        by_channel = kernel.quantization.per_channel
        parts = np.moveaxis(weights, kernel.quantization.dimension, 0) if by_channel else weights[None]
        assert max(len(np.unique(part)) for part in parts) <= 8
        if sparse and weights.size > 200:  # the depthwise kernel isn't pruned
            assert np.mean(weights == 0) >= 0.49


def test_a_lost_promise_names_its_layer(digits_bundle: Path) -> None:
    """What no clustering made has more values than promised, and is not a layer that can pass unseen."""
    model = read(digits_bundle / "model.tflite")
    with pytest.raises(CompressionGateError, match=r"'nowhere'.*no weights of that name"):
        promises.check(model, {"nowhere": promises.Promise(zeros=0.5).to_json()})


@pytest.mark.parametrize("what", ["a dead channel", "few weights in some channels", "a quarter of zeros"])
def test_a_promise_is_made_of_kernels_that_are_not_alike_in_all_channels(what: str) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.choice(rng.normal(size=8), (3, 3, 8, 64)) * rng.uniform(0.5, 1, 64)  # 8 values a channel
    if what == "a dead channel":
        kernel[..., 5] = 0
    elif what == "few weights in some channels":
        kernel[..., :60][rng.uniform(size=kernel[..., :60].shape) < 0.95] = 0
        kernel[0, 0, :3, 0] = [1, 2, 3]
        kernel[..., 0][kernel[..., 0] < 1] = 0
    else:
        kernel[rng.uniform(size=kernel.shape) < 0.25] = 0
    promise = promises.of_kernel(kernel, sparsity=what == "a quarter of zeros", clusters=True)
    assert promise is not None
    assert promise.channel_values is not None
    assert promise.channel_values <= 9
    assert promise.zeros == (np.mean(kernel == 0) if what == "a quarter of zeros" else 0)
    assert promises.of_kernel(rng.normal(size=(3, 3, 8, 64)), sparsity=True, clusters=True) is None


def test_clusters_of_a_transposed_convolution_are_found_and_what_stays_float_is_named(tmp_path: Path) -> None:
    """Its kernel has the output channels before the input's."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(0)
    inputs = layers.Input((4, 4, 2), name="x")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.Conv2D(6, 3, padding="same", name="after")(layers.LayerNormalization(name="norm")(x))
    x = layers.Dense(1, name="y")(layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x)))
    tf_keras.Model(inputs, x).save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4, 4, 2)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=x.mean((1, 2, 3)), x_test=x, y_test=x.mean((1, 2, 3)))
    text = RECIPE.format(prune="", per_channel="true", sparse="false")
    for name, change in (("allow", ""), ("refuse", 'float_layers = "refuse"\n')):
        (tmp_path / f"{name}.toml").write_text(text.replace('stage = "qat"\n', f'stage = "qat"\n{change}'))
    data = ("--data", "d.npz", "--max-drop", "off")
    refused = run_cli("build", "m.keras", *data, "--recipe", "refuse.toml", "--out", "b", cwd=tmp_path)
    assert refused.code == UnsupportedLayerError.exit_code
    assert "norm (LayerNormalization)" in refused.err, refused.err
    done = run_cli("build", "m.keras", *data, "--recipe", "allow.toml", "--out", "b", cwd=tmp_path)
    assert done.code == 0, done.err
    history = json.loads((tmp_path / "b" / "manifest.json").read_text())["history"]
    notes = {record["stage"]: " ".join(record["notes"]) for record in history}
    assert "left in float (they can't be quantized): norm (LayerNormalization)" in notes["qat"]
    assert "float" not in notes["convert"]
    metrics = {record["stage"]: record["metrics"] for record in history}
    assert metrics["cluster"]["values"]["up"] <= 8
    assert metrics["convert"]["kept"]["up"]["values"] <= 8


def test_preserving_what_never_was_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        '[[steps]]\nstage = "qat"\npreserve_clusters = true\nepochs = 1\n[[steps]]\nstage = "convert"\n'
    )
    done = run_cli("build", "digits", "--recipe", "r.toml", "--out", "b", cwd=tmp_path)
    assert done.code == CompressionGateError.exit_code
    assert "no layer of the incoming model is clustered" in done.err


KERNELS = st.tuples(st.integers(0, 99), st.integers(1, 3), st.integers(1, 6), st.integers(1, 8))


@settings(max_examples=40, deadline=None)
@given(KERNELS, st.integers(2, 9), st.booleans(), st.booleans(), st.sampled_from(["kmeans++", "linear"]))
def test_a_clustered_kernel_has_few_values_and_keeps_its_zeros(
    shape: tuple[int, int, int, int], clusters: int, sparse: bool, per_channel: bool, initial: str
) -> None:
    seed, size, inputs, outputs = shape
    kernel = np.random.default_rng(seed).normal(size=(size, size, inputs, outputs)).astype(np.float32)
    kernel[np.random.default_rng(seed + 1).uniform(size=kernel.shape) < 0.4] = 0
    stage = Cluster(clusters=clusters, initial=initial, per_channel=per_channel, preserve_sparsity=sparse)
    found = stage._clustered(kernel, outputs if per_channel else 1, seed=0)
    assert found.shape == kernel.shape
    assert promises.distinct(found, -1 if per_channel else None) <= clusters
    if sparse:
        np.testing.assert_array_equal(found == 0, kernel == 0)


@settings(max_examples=40, deadline=None)
@given(KERNELS, st.booleans(), st.booleans())
def test_tied_gradients_keep_members_equal_and_zeros_zero(
    shape: tuple[int, int, int, int], sparse: bool, clusters: bool
) -> None:
    seed, size, inputs, outputs = shape
    rng = np.random.default_rng(seed)
    kernel = rng.integers(-2, 3, (size, size, inputs, outputs)).astype(np.float32)
    ties = Ties.of(kernel, sparsity=sparse, clusters=clusters)
    gradient = rng.normal(size=kernel.shape).astype(np.float32)
    tied = np.asarray(ties.tie(gradient))
    moved = kernel - tied
    if sparse:
        assert not tied[kernel == 0].any()
    for value in np.unique(kernel[kernel != 0]):
        members = kernel == value
        if clusters:
            np.testing.assert_allclose(tied[members], gradient[members].mean(), atol=1e-5)
            assert len(np.unique(ties.snap(moved)[members])) == 1
        else:
            np.testing.assert_array_equal(tied[members], gradient[members])
