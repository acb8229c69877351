"""Clustering, and quantization-aware training that keeps zeros and clusters down to the int8 weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_cli

from edgecompile import promises
from edgecompile.errors import CompressionGateError
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
    with pytest.raises(CompressionGateError, match=r"'nowhere'.*no int8 weights of that name"):
        promises.check(model, {"nowhere": promises.Promise(zeros=0.5).to_json()})


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
