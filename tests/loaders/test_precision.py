"""Models that compute in 16 or 64 bits are float32 once loaded: nested ones, each layer's own policy, inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

from edgecompile import bridge, loaders
from edgecompile.errors import ModelError
from edgecompile.loaders import LoadOptions

PLAIN = LoadOptions()


def network(library: Any, policy: str) -> Any:
    """A nested block, a normalization, an activation of its own, all under `policy`; the last layer is float32."""
    k = library.layers
    before = library.mixed_precision.global_policy() if library is tf_keras else library.config.dtype_policy()
    library.mixed_precision.set_global_policy(policy)
    try:
        y = library.Input((4, 4, 3), name="y")
        block = library.Model(y, k.ReLU(name="act")(k.BatchNormalization(name="bn")(k.Conv2D(4, 3, name="c")(y))),
                              name="block")  # fmt: skip
        x = library.Input((6, 6, 3), name="x")
        h = block(k.Conv2D(3, 3, name="first")(x))
        if library is keras:
            h = keras.ops.cast(h, "float16") * 0.5
        h = k.Dense(3, activation="softmax", name="scores", dtype="float32")(k.Flatten(name="flat")(h))
        model = library.Model(x, h, name="net")
    finally:
        library.mixed_precision.set_global_policy(before)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 1, w.shape).astype("float32") for w in model.weights])
    return model


def dtypes(model: Any) -> set[str]:
    """The dtypes that its layers compute in, keep weights in and are given."""
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    found = {str(layer.compute_dtype) for layer in layers if layer.compute_dtype}
    weights = {w.dtype if isinstance(w.dtype, str) else w.dtype.name for w in model.weights}
    return found | weights | {str(getattr(t.dtype, "name", t.dtype)) for t in model.inputs}


@pytest.mark.parametrize(
    ("library", "name"),
    [(keras, "m.keras"), (keras, "m.h5"), (tf_keras, "m.keras"), (tf_keras, "m.h5"), (tf_keras, "m")],
)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_rebuilt_in_float32(library: Any, name: str, policy: str, tmp_path: Path) -> None:
    if library is keras and name == "m.h5":
        pytest.skip("the format doesn't hold operations")
    model = network(library, policy)
    model.save(tmp_path / name)
    source = loaders.load(tmp_path / name, PLAIN)
    assert source.kind == ("keras3" if library is keras else "keras")
    assert dtypes(source.model) == {"float32"}
    assert source.signature.inputs[0].dtype == "float32"
    assert policy in source.notes[0]
    assert "which its weights are already" in source.notes[0]
    for before, after in zip(model.get_weights(), source.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    x = np.random.default_rng(1).normal(size=(8, 6, 6, 3)).astype(np.float32)
    (scores,) = source.predict({"x": x}).values()
    np.testing.assert_allclose(scores, np.asarray(model(x)), atol=0.02)  # 8 bits of mantissa
    again = loaders.load(source.save(tmp_path / "again"), PLAIN)
    assert again.notes == ()
    np.testing.assert_array_equal(again.predict({"x": x})["scores"], scores)
    if library is keras:
        assert bridge.to_tf_keras(source.model, {"x": x}).max_diff <= 1e-5


@pytest.mark.parametrize(
    ("library", "dtype"),
    [(keras, "float16"), (keras, "bfloat16"), (keras, "float64"), (tf_keras, "float16"), (tf_keras, "float64")],
)
def test_weights_of_another_precision_are_converted(library: Any, dtype: str, tmp_path: Path) -> None:
    k = library.layers
    x = library.Input((4,), name="x", dtype=dtype)
    model = library.Sequential([k.Dense(3, dtype=dtype, name="a"), k.Dense(2, dtype=dtype, name="b")])(x)
    model = library.Model(x, model)
    path = tmp_path / "m.keras"
    model.save(path)
    source = loaders.load(path, PLAIN)
    assert dtypes(source.model) == {"float32"}
    assert source.notes == (f"computed in {dtype}: rebuilt in float32, its weights too",)
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    (received,) = source.predict({"x": values}).values()
    np.testing.assert_allclose(received, np.asarray(model(values.astype("float64"))).astype(np.float32), atol=0.05)


def test_float32_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    network(keras, "float32").get_layer("block").save(path)
    source = loaders.load(path, PLAIN)
    assert source.notes == ()


def test_an_exported_graph_of_half_precision_is_refused_at_once(tmp_path: Path) -> None:
    network(keras, "mixed_float16").export(tmp_path / "m", verbose=False)
    with pytest.raises(ModelError, match="computes in float16") as caught:
        loaders.load(tmp_path / "m", PLAIN)
    assert ".keras file" in (caught.value.hint or "")
