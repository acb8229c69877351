"""LiteRT's runner: batches, free dimensions and names of any file that a build may have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from edgecompile import loaders
from edgecompile.artifact import Artifact
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Candidate
from edgecompile.backends.litert import REFERENCE, XNNPACK, LiteRtRunner
from edgecompile.errors import DataError
from edgecompile.loaders.base import LoadOptions
from edgecompile.ondevice.runner import named
from edgecompile.stages.base import Context
from edgecompile.stages.load import Load
from edgecompile.tflite_file import read

PLAIN = LoadOptions()


def context(out: Path, options: LoadOptions = PLAIN) -> Context:
    return Context(out, out, None, "float", options, 0, None, None, lambda _: None)


def write(path: Path, *, shape: tuple[int | None, ...], signatures: tuple[str, ...] = ("serving_default",)) -> Path:
    """x -> (mean over height and width, the highest channel's doubled value), a file with the given signatures."""
    module = tf.Module()

    def function(first: str, key: str) -> tf.types.experimental.ConcreteFunction:
        def call(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {first: tf.reduce_mean(image * 3.0, axis=[1, 2]), "top": tf.reduce_max(image * 2.0, axis=[1, 2])}

        spec = tf.TensorSpec(shape, tf.float32, name="image")
        setattr(module, key, tf.function(call))
        return getattr(module, key).get_concrete_function(spec)

    functions = {key: function(f"mean_{key}", key) for key in signatures}
    tf.saved_model.save(module, str(path.with_suffix("")), signatures=functions)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path.with_suffix("")), signature_keys=list(signatures))
    path.write_bytes(converter.convert())
    return path


def images(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(n, *shape)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 3, 4, 7])
def test_samples_run_in_steps_of_the_files_batch(n: int, tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", shape=(4, 6, 5, 3))
    x = images(n, 6, 5, 3)
    found = LiteRtRunner(path, REFERENCE).run({"image": x})
    assert found["mean_serving_default"].shape == (n, 3)
    np.testing.assert_allclose(found["mean_serving_default"], 3 * x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["top"], 2 * x.max((1, 2)), rtol=1e-5)


def test_free_dimensions_follow_the_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", shape=(1, None, None, 3))
    runner = LiteRtRunner(path, XNNPACK)
    for size in ((8, 8), (6, 5)):
        x = images(3, *size, 3)
        np.testing.assert_allclose(runner.run({"image": x})["top"], 2 * x.max((1, 2)), rtol=1e-5)
    with pytest.raises(DataError, match=r"'image'.*received \[6, 5, 4\]"):
        runner.run({"image": images(1, 6, 5, 4)})
    with pytest.raises(DataError, match="received"):
        runner.run({"image": images(1, 6, 5)})


def test_the_source_and_the_runner_compute_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", shape=(None, None, None, 3))
    options = LoadOptions(input_shape=(("image", (2, 6, 5, 3)),))
    x = {"image": images(5, 6, 5, 3)}
    expected = loaders.load(path, options).predict(x)
    received = LiteRtRunner(path, XNNPACK).run_real(x)
    assert list(received) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(received[name], array)


def test_samples_of_fixed_sizes_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", shape=(1, 6, 5, 3))
    with pytest.raises(DataError, match=r"expects samples of shape \[6, 5, 3\]"):
        LiteRtRunner(path).run({"image": images(2, 8, 8, 3)})
    with pytest.raises(DataError, match="the model expects inputs"):
        LiteRtRunner(path).run({"picture": images(2, 6, 5, 3)})


@pytest.mark.parametrize("signatures", [("train", "infer"), ("serving_default", "another")])
def test_after_load_everything_agrees_on_names(signatures: tuple[str, ...], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = write(tmp_path / "m.tflite", shape=(1, 6, 5, 3), signatures=signatures)
    before = path.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    outcome = Load(str(path), "").run(None, context(out))
    assert path.read_bytes() == before
    copy = outcome.files["model"]
    names = [t.name for t in outcome.signature.inputs], [t.name for t in outcome.signature.outputs]
    assert len(read(copy).signatures) == 1
    assert ([t.name for t in read(copy).signature.inputs], [t.name for t in read(copy).signature.outputs]) == names
    again = loaders.load(copy, PLAIN)
    assert again.signature == outcome.signature
    interpreter = Interpreter(str(copy))
    interpreter.allocate_tensors()
    assert tuple([name for name, _ in side] for side in named(interpreter)) == names
    x = {names[0][0]: images(2, 6, 5, 3)}
    assert set(LiteRtRunner(copy).run(x)) == set(again.predict(x)) == set(names[1])
    assert any("alone was kept" in note for note in outcome.notes)


def test_a_file_with_one_sound_signature_is_copied_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", shape=(1, 6, 5, 3))
    out = tmp_path / "out"
    out.mkdir()
    assert Load(str(path), "").run(None, context(out)).files["model"].read_bytes() == path.read_bytes()


def test_backends_open_what_they_compile(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tflite", shape=(1, 6, 5, 3))
    x = {"image": images(2, 6, 5, 3)}
    for config in ({"xnnpack": True}, {"xnnpack": False}):
        runner = BACKENDS["litert"].open(Candidate("c", "litert", path, 1, config))
        assert [t.name for t in runner.outputs] == list(runner.run_real(x))
        assert runner.scale("top") is None


def test_training_ignores_the_shape_that_reloading_honours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    import tf_keras

    from edgecompile.stages import load

    def build() -> tf_keras.Model:
        x = tf_keras.Input((8, 8, 1), name="image")
        return tf_keras.Model(x, tf_keras.layers.Dense(2, name="y")(tf_keras.layers.Flatten()(x)))

    plan = types.SimpleNamespace(learning_rate=1e-3, batch_size=8)
    monkeypatch.setattr(load.catalog, "get", lambda _: types.SimpleNamespace(build=build, TRAINING=plan))
    monkeypatch.setattr(load, "train", lambda *_: None)
    monkeypatch.setattr(load, "training_metrics", lambda _: {})
    options = LoadOptions(input_shape=(("image", (4, 8, 8, 1)),))
    folders = tmp_path / "train", tmp_path / "again"
    for folder in folders:
        folder.mkdir()
    trained = load.Train("m", "", 1).run(None, context(folders[0], options))
    assert trained.signature.inputs[0].shape == (1, 8, 8, 1)
    artifact = Artifact(trained.kind, trained.files, trained.signature)
    again = load.Reload().run(artifact, context(folders[1], options))
    assert again.signature.inputs[0].shape == (4, 8, 8, 1)
    assert again.files["model"].read_bytes() == artifact.model.read_bytes()
    assert again.files["model"].parent == folders[1]
