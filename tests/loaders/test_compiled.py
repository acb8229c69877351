"""What is read of a Keras file's `compile`: plain data, of Keras's own losses alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import loaders
from edgecompile.loaders.base import LoadOptions
from edgecompile.loaders.compiled import compiled

MSE = {"name": "MeanSquaredError", "settings": {}}


def model(library: Any) -> Any:
    x = library.Input((4,), name="x")
    age = library.layers.Dense(1, name="age")(x)
    tags = library.layers.Dense(3, activation="sigmoid", name="tags")(x)
    return library.Model(x, [age, tags])


def library(name: str) -> Any:
    import keras
    import tf_keras

    return {"keras": keras, "tf_keras": tf_keras}[name]


def saved(
    library_name: str, path: Path, loss: Any, **options: Any
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    made = model(library(library_name))
    made.compile("adam", loss, **options)
    made.save(path)
    return compiled(loaders.load(path, LoadOptions()))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_losses_weights_and_activations(tmp_path: Path, name: str, suffix: str) -> None:
    losses = library(name).losses
    given = {"tags": losses.BinaryCrossentropy(label_smoothing=0.25), "age": losses.MeanSquaredError()}
    found, notes = saved(name, tmp_path / f"m{suffix}", given, loss_weights={"age": 0.5, "tags": 2.0})
    assert notes == ()
    assert found["age"] == {"activation": "linear", "loss": MSE, "loss_weight": 0.5}
    tags = found["tags"]
    assert (tags["activation"], tags["loss_weight"], tags["loss"]["name"]) == ("sigmoid", 2.0, "BinaryCrossentropy")
    assert tags["loss"]["settings"]["label_smoothing"] == 0.25


@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_one_loss_is_for_all_outputs_and_a_list_is_in_their_order(tmp_path: Path, name: str) -> None:
    found, _ = saved(name, tmp_path / "one.keras", "mse")
    assert [output["loss"] for output in found.values()] == [MSE, MSE]
    found, _ = saved(name, tmp_path / "list.keras", ["mae", library(name).losses.binary_crossentropy])
    assert [output["loss"]["name"] for output in found.values()] == ["MeanAbsoluteError", "BinaryCrossentropy"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_a_loss_of_the_users_own_is_told_and_not_used(tmp_path: Path, name: str, suffix: str) -> None:
    def mine(labels: Any, outputs: Any) -> Any:
        return (labels - outputs) ** 2

    found, notes = saved(name, tmp_path / f"m{suffix}", ["mse", mine])
    assert [output["loss"] for output in found.values()] == [MSE, None]
    assert notes == ("'tags' was compiled with 'mine', no loss of Keras's own: one that fits is taken",)


def test_a_saved_model_of_keras_keeps_its_losses(tmp_path: Path) -> None:
    found, _ = saved("tf_keras", tmp_path / "folder", ["mse", "binary_crossentropy"], loss_weights=[1.0, 0.5])
    assert [output["loss"]["name"] for output in found.values()] == ["MeanSquaredError", "BinaryCrossentropy"]
    assert [output["loss_weight"] for output in found.values()] == [1.0, 0.5]


def test_a_file_that_was_not_compiled_has_none(tmp_path: Path) -> None:
    import keras

    model(keras).save(tmp_path / "m.keras")
    found, notes = compiled(loaders.load(tmp_path / "m.keras", LoadOptions()))
    assert ([output["loss"] for output in found.values()], notes) == ([None, None], ())


def test_the_last_operator_of_a_tflite_tells_its_activation(tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras

    made = model(tf_keras)
    made(np.zeros((1, 4), np.float32))
    (tmp_path / "m.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(made).convert())
    found, _ = compiled(loaders.load(tmp_path / "m.tflite", LoadOptions()))
    assert sorted(str(output["activation"]) for output in found.values()) == ["None", "sigmoid"]
